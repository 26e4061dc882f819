"""The counters of all workers, added up and named, for Engine.stats()."""

from libc.stdint cimport uint64_t

from fastpath.abi cimport MAX_ROUTES
from fastpath.atomics cimport load_acquire, load_relaxed, load_signed
from fastpath.http.coders cimport coders_t
from fastpath.http.counters cimport (
    COPY_RESULTS, DURATION_BUCKETS, REQUEST_CELLS, duration_t, http_counters_t,
)

from fastpath.counting import histogram
from fastpath.filters import ENCODINGS
from fastpath.http.answers import REFUSAL_NAMES
from fastpath.http.counters import DURATION_BOUNDS_US

METHOD_NAMES = (
    "other", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE",
)
COPY_NAMES = ("answered", "failed", "too-long", "too-many", "unsent")


cdef enum:
    OTHERS = -1                 # in place of a route's slot


cdef class HttpTotals:
    """Sums over workers."""

    def __init__(self):
        """Begin with nothing."""
        self.requests = {}
        self.durations = {}
        self.retries = {}
        self.refused = dict.fromkeys(REFUSAL_NAMES[1:], 0)
        self.copies = dict.fromkeys(COPY_NAMES, 0)
        self.overflow = 0
        self.waiting = 0
        self.checking = 0
        self.checks = 0
        self.compressed = {name: [0, 0, 0] for name in ENCODINGS}
        self.compressing = 0
        self.crowded = 0

    cdef object add(self, const http_counters_t *counters):
        cdef uint64_t key, begun, denied
        cdef int i, slot
        for i in range(1, len(REFUSAL_NAMES)):
            self.refused[REFUSAL_NAMES[i]] += load_relaxed(&counters.refused[i])
        for i in range(<int>COPY_RESULTS):
            self.copies[COPY_NAMES[i]] += load_relaxed(&counters.copies[i])
        self.waiting += load_signed(&counters.waiting)
        self.checking += load_signed(&counters.checking)
        self.checks += load_relaxed(&counters.checks)
        self.overflow += load_relaxed(&counters.overflow)
        for i in range(REQUEST_CELLS):
            key = load_acquire(&counters.requests[i].key)
            if key != 0:
                cells = self.requests.setdefault(key >> 14 & 0xFFFF, {})
                cell = METHOD_NAMES[key >> 10 & 15], key & 1023
                cells[cell] = cells.get(cell, 0) + load_relaxed(&counters.requests[i].n)
        self.add_duration(OTHERS, &counters.durations[0])
        for slot in range(MAX_ROUTES):
            key = load_acquire(&counters.duration_of_route[slot])
            if key != 0:
                self.add_duration(slot, &counters.durations[key])
            begun = load_relaxed(&counters.retries[slot].begun)
            denied = load_relaxed(&counters.retries[slot].denied)
            if begun or denied:
                before = self.retries.get(slot, (0, 0))
                self.retries[slot] = before[0] + begun, before[1] + denied

    cdef object add_coders(self, const coders_t *coders):
        cdef int i
        self.compressing += load_signed(&coders.n_active)
        self.crowded += load_relaxed(&coders.n_crowded)
        for i, name in enumerate(ENCODINGS):
            sums = self.compressed[name]
            sums[0] += load_relaxed(&coders.counters[i + 1].n)
            sums[1] += load_relaxed(&coders.counters[i + 1].bytes_in)
            sums[2] += load_relaxed(&coders.counters[i + 1].bytes_out)

    cdef object add_duration(self, int slot, const duration_t *duration):
        cdef int i
        cdef list sums = self.durations.setdefault(slot, [0] * (DURATION_BUCKETS + 1))
        for i in range(DURATION_BUCKETS):
            sums[i] += load_relaxed(&duration.buckets[i])
        sums[DURATION_BUCKETS] += load_relaxed(&duration.sum_us)

    def by_name(self, routes):
        """The sums, for routes {(gateway, route): slot}, as stats() documents them."""
        requests = {}
        durations = {}
        retries = {}
        for (gateway, route), slot in routes.items():
            of_route = requests.setdefault(gateway, {}).setdefault(route, {})
            for (method, code), n in sorted(self.requests.get(slot, {}).items()):
                of_route.setdefault(method, {})[code] = n
            if slot in self.durations:
                durations.setdefault(gateway, {})[route] = self._histogram(slot)
            begun, denied = self.retries.get(slot, (0, 0))
            retries.setdefault(gateway, {})[route] = {"begun": begun, "denied": denied}
        return {
            "requests": requests,
            "durations": durations,
            "retries": retries,
            "rejected": dict(self.refused),
            "others": {"requests": self.overflow, "durations": self._histogram(OTHERS)},
            "waiting": self.waiting,
            "checking": self.checking,
            "checks": self.checks,
            "compressed": {
                name: dict(zip(("responses", "bytes_in", "bytes_out"), sums, strict=True))
                for name, sums in self.compressed.items()
            },
            "compressing": self.compressing,
            "uncompressed": self.crowded,
            "mirrored": dict(self.copies),
        }

    def _histogram(self, slot):
        """Cumulative buckets in seconds, as Prometheus wants them."""
        *counts, sum_us = self.durations[slot]
        return histogram(counts, [us / 1e6 for us in DURATION_BOUNDS_US], sum_us / 1e6)
