"""Python's way into choices of backends, for the tests; built with PIAGENT_PROBE=1 only."""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from fastpath.abi cimport backend_t, common_t, counters_t, service_t
from fastpath.atomics cimport add_shared, load_signed
from fastpath.hashing.bits cimport draw64
from fastpath.hashing.maglev cimport MAGLEV_SIZE
from fastpath.loop cimport loop_t
from fastpath.proxy.balance cimport balance_choose, balance_renew
from fastpath.proxy.outlier cimport outlier_answered, outlier_failed
from fastpath.proxy.policies cimport (
    PASS_EJECTED as _PASS_EJECTED, PASS_NOT, PASS_SLOW as _PASS_SLOW, PASS_TRIED as _PASS_TRIED,
    PASS_UNUSABLE as _PASS_UNUSABLE, choice_init, choice_passes, choice_t, slow_start_share,
    tries_t,
)
from fastpath.snapshot cimport Snapshot
from fastpath.sys_linux cimport sched_yield

from fastpath.limits import limits_now
from fastpath.numbering import Numbering
from fastpath.snapshot import compile as compile_tables
from fastpath.tables import Tables, check

PASS_UNUSABLE = _PASS_UNUSABLE
PASS_TRIED = _PASS_TRIED
PASS_EJECTED = _PASS_EJECTED
PASS_SLOW = _PASS_SLOW


cdef class Balancer:
    """Tables as the engine makes them, and the loops of some workers, without sockets."""

    cdef Snapshot snapshot
    cdef common_t *common
    cdef loop_t *loops
    cdef int64_t arrived        # in fail_at_once
    cdef object numbering, tables

    def __cinit__(self, n_workers=1):
        cdef int i
        self.common = <common_t *>calloc(1, sizeof(common_t))
        self.loops = <loop_t *>calloc(n_workers, sizeof(loop_t))
        if self.common == NULL or self.loops == NULL:
            raise MemoryError
        for i in range(n_workers):
            self.common.counters[i] = <counters_t *>calloc(1, sizeof(counters_t))
            if self.common.counters[i] == NULL:
                raise MemoryError
            self.loops[i].counters = self.common.counters[i]
            self.loops[i].common = self.common
            self.common.n_workers += 1
        self.numbering = Numbering()
        self.publish(Tables((), (), ()))

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.common.n_workers):
            free(self.common.counters[i])
        free(self.loops)
        free(self.common)

    def publish(self, tables):
        """Tables without listeners; every worker goes over at once."""
        cdef Snapshot snapshot
        cdef uint32_t i
        check(tables)
        self.numbering = self.numbering.assign(
            tables, *[lambda slot: True] * 3, settled=True
        )
        snapshot = compile_tables(
            tables, self.numbering, {}, limits_now(16, 1, 0, udp=False), 1, False, [], bytes(16),
            self.snapshot,
        )
        if self.snapshot is not None:
            balance_renew(self.common, self.snapshot.c, snapshot.c)
        self.snapshot = snapshot
        self.tables = tables
        for i in range(self.common.n_workers):
            self.loops[i].snapshot = snapshot.c

    cdef service_t *_service(self, service) except NULL:
        return self.snapshot.c.service_of_slot[<int>self.numbering.services[service]]

    def _names(self, service):
        """Of the backends, by index."""
        return sorted([
            backend.name for each in self.tables.services if each.name == service
            for backend in each.backends
        ])

    def slot(self, service, backend):
        return self.numbering.backends[service, backend]

    @property
    def now_ms(self):
        return self.loops[0].now_ms

    @now_ms.setter
    def now_ms(self, now_ms):
        cdef uint32_t i
        for i in range(self.common.n_workers):
            self.loops[i].now_ms = now_ms

    def choose(self, service, hash, tried=(), worker=0):
        """The backend's name, or None."""
        cdef service_t *found = self._service(service)
        cdef tries_t tries = self._tries(service, tried)
        cdef backend_t *backend = balance_choose(&self.loops[<int>worker], found, hash, &tries)
        if backend == NULL:
            return None
        assert tries.n == len(tried) + 1 and tries.slots[len(tried)] == backend.slot
        return self._names(service)[backend - found.backends]

    cdef tries_t _tries(self, service, tried):
        cdef tries_t tries
        tries.n = 0
        for backend in tried:
            tries.slots[tries.n] = self.slot(service, backend)
            tries.n += 1
        return tries

    def entry(self, service, hash):
        """Who is in the hash's entry of the Maglev table."""
        cdef int index = self._service(service).maglev[hash % MAGLEV_SIZE]
        return self._names(service)[index]

    def connect(self, service, backend, change=1, worker=0):
        """Count connections to the backend, or fewer of them."""
        self.common.counters[<int>worker].backends[<int>self.slot(service, backend)].active += (
            change
        )

    def fail(self, service, backend, worker=0):
        outlier_failed(&self.loops[<int>worker], self.slot(service, backend))

    def fail_at_once(self, service, backends, uint64_t n_rounds, worker):
        """A thread for each worker calls this: in each round, a second later, all fail together."""
        cdef uint16_t slots[8]
        cdef uint64_t turn, spins
        cdef uint32_t i, n_backends = len(backends)
        cdef loop_t *loop = &self.loops[<int>worker]
        for i in range(n_backends):
            slots[i] = self.slot(service, backends[i])
        with nogil:
            for turn in range(n_rounds):
                add_shared(&self.arrived, 1)
                spins = 0
                while load_signed(&self.arrived) < <int64_t>(
                    (turn + 1) * self.common.n_workers
                ):
                    spins += 1
                    if spins % 4096 == 0:       # the others may be off their cores
                        sched_yield()
                loop.now_ms += 1000
                for i in range(n_backends):
                    outlier_failed(loop, slots[i])

    def answer(self, service, backend, worker=0):
        outlier_answered(&self.loops[<int>worker], self.slot(service, backend))

    def ejected_ms(self, service, backend):
        """How long it still stays ejected."""
        cdef uint64_t until = self.common.outliers[<int>self.slot(service, backend)].until_ms
        return max(0, until - self.now_ms)

    def ejections(self, service, backend):
        """How often all workers have ejected it."""
        cdef uint32_t i
        cdef int slot = self.slot(service, backend)
        return sum([
            self.common.counters[i].backends[slot].ejections
            for i in range(self.common.n_workers)
        ])

    def current_weight(self, service, backend, worker=0):
        cdef int slot = self.slot(service, backend)
        return self.common.counters[<int>worker].backends[slot].current_weight

    def passed_over(self, service, hash, tried=()):
        """Name -> PASS_*, of those that a choice passes over at first."""
        cdef service_t *found = self._service(service)
        cdef tries_t tries = self._tries(service, tried)
        cdef choice_t choice
        choice_init(
            &choice, found, self.common, self.common.counters[0].backends, &tries, hash,
            self.now_ms,
        )
        reasons = {
            name: <int>choice_passes(&choice, index)
            for index, name in enumerate(self._names(service))
        }
        return {name: why for name, why in reasons.items() if why != PASS_NOT}

    def returned_ms(self, service, backend):
        return self.snapshot.c.backend_of_slot[<int>self.slot(service, backend)].returned_ms


def share(returned_ms, slow_start_ms, now_ms):
    return slow_start_share(returned_ms, slow_start_ms, now_ms)


def draw(seed, number):
    return draw64(seed, number)
