"""What the workers counted, added up for Python.

Relaxed loads of counters that run on: every number is one that was true, not all at one moment.
"""

from libc.stdint cimport int64_t, uint64_t

from fastpath.abi cimport (
    PROTOCOL_HTTP, RELAYS_BACKEND, TIMES_COUNT, backend_counters_t, backend_t, counters_t,
    service_counters_t, service_t, times_t,
)
from fastpath.atomics cimport load_relaxed, load_signed
from fastpath.http.state cimport http_t
from fastpath.http.totals cimport HttpTotals
from fastpath.proxy.outlier cimport outlier_is_passed_over
from fastpath.worker cimport worker_t

import time

from fastpath.tables import DROPS, ENDS, EVICTIONS, REASONS


cdef dict backend_total(worker_t **workers, int n_workers, int slot):
    cdef backend_counters_t *counters
    cdef uint64_t connections = 0, failures = 0, bytes_in = 0, bytes_out = 0
    cdef uint64_t ejections = 0
    cdef int64_t active = 0, opened = 0
    cdef int i
    for i in range(n_workers):
        counters = &workers[i].loop.counters.backends[slot]
        connections += load_relaxed(&counters.connections)
        failures += load_relaxed(&counters.connect_failures)
        bytes_in += load_relaxed(&counters.bytes_in)
        bytes_out += load_relaxed(&counters.bytes_out)
        active += load_signed(&counters.active)
        opened += load_signed(&counters.open)
        ejections += load_relaxed(&counters.ejections)
    return {
        "connections": connections,
        "active": active,
        "open": opened,
        "bytes_in": bytes_in,
        "bytes_out": bytes_out,
        "connect_failures": failures,
        "ejections": ejections,
    }


cdef dict times_total(worker_t **workers, int n_workers, int slot):
    cdef times_t *times
    cdef int i, bucket
    connect = [0] * TIMES_COUNT
    session = [0] * TIMES_COUNT
    connect_us = session_ms = 0
    for i in range(n_workers):
        times = &workers[i].loop.counters.times[slot]
        for bucket in range(TIMES_COUNT):
            connect[bucket] += load_relaxed(&times.connect[bucket])
            session[bucket] += load_relaxed(&times.session[bucket])
        connect_us += load_relaxed(&times.connect_us)
        session_ms += load_relaxed(&times.session_ms)
    return {
        "connect": connect, "session": session, "connect_us": connect_us, "session_ms": session_ms,
    }


cdef dict ends_total(worker_t **workers, int n_workers, int slot):
    cdef service_counters_t *counters
    cdef int i, reason
    ended = dict.fromkeys(ENDS, 0)
    rejected = dict.fromkeys(REASONS, 0)
    for i in range(n_workers):
        counters = &workers[i].loop.counters.services[slot]
        for reason, name in enumerate(ENDS):
            ended[name] += load_relaxed(&counters.ended[reason])
        for reason, name in enumerate(REASONS):
            rejected[name] += load_relaxed(&counters.rejected[reason])
    return {"ended": ended, "rejected": rejected}


cdef object is_ejected(const common_t *common, const snapshot_t *snapshot, int slot):
    cdef const backend_t *backend = snapshot.backend_of_slot[slot]
    cdef const service_t *service = snapshot.service_of_slot[backend.service_slot]
    cdef uint64_t now_ms = time.monotonic_ns() // 1_000_000
    return bool(outlier_is_passed_over(common, service, backend, now_ms))


cdef object accepted_total(worker_t **workers, int n_workers, int slot):
    cdef uint64_t accepted = 0
    cdef int i
    for i in range(n_workers):
        accepted += load_relaxed(&workers[i].loop.counters.listeners[slot].accepted)
    return accepted


cdef object open_total(worker_t **workers, int n_workers, int slot):
    cdef int64_t opened = 0
    cdef int i
    for i in range(n_workers):
        opened += load_signed(&workers[i].loop.counters.listeners[slot].open)
    return opened


cdef dict rejected_total(worker_t **workers, int n_workers):
    cdef int i, reason
    cdef uint64_t n
    rejected = {}
    for reason, name in enumerate(REASONS):
        n = 0
        for i in range(n_workers):
            n += load_relaxed(&workers[i].loop.counters.rejected[reason])
        rejected[name] = n
    return rejected


cdef dict relays_total(worker_t **workers, int n_workers):
    counters = backend_total(workers, n_workers, RELAYS_BACKEND)
    return {
        "total": counters["connections"],
        "active": counters["active"],
        "bytes_in": counters["bytes_in"],
        "bytes_out": counters["bytes_out"],
    }


cdef dict udp_total(worker_t **workers, int n_workers):
    cdef counters_t *counters
    cdef int64_t sessions = 0
    cdef uint64_t received = 0, sent = 0
    cdef int i, why
    dropped = dict.fromkeys(DROPS, 0)
    evicted = dict.fromkeys(EVICTIONS, 0)
    for i in range(n_workers):
        counters = workers[i].loop.counters
        sessions += load_signed(&counters.sessions)
        received += load_relaxed(&counters.segments_received)
        sent += load_relaxed(&counters.segments_sent)
        for why, name in enumerate(EVICTIONS):
            evicted[name] += load_relaxed(&counters.evicted[why])
        for why, name in enumerate(DROPS):
            dropped[name] += load_relaxed(&counters.dropped[why])
    return {
        "sessions": sessions,
        "evicted": evicted,
        "dropped": dropped,
        "segments": {"received": received, "sent": sent},
    }


cdef dict http_total(worker_t **workers, int n_workers, routes):
    cdef HttpTotals totals = HttpTotals()
    cdef http_t *http
    cdef int i
    for i in range(n_workers):
        http = <http_t *>workers[i].loop.states[<int>PROTOCOL_HTTP]
        totals.add(&http.counters)
        totals.add_coders(&http.stores.coders)
    return totals.by_name(routes)


cdef list each_worker(worker_t **workers, int n_workers):
    cdef int i
    found = []
    for i in range(n_workers):
        found.append({
            "turns": load_relaxed(&workers[i].loop.counters.turns),
            "active": load_signed(&workers[i].loop.counters.clients),
        })
    return found
