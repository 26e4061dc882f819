"""Python's way into slab, ring and wheel, for the tests; built with PIAGENT_PROBE=1 only."""

from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from fastpath.abi cimport FP_AGAIN, FP_BAD, FP_OK
from fastpath.memory.pipes cimport pipe_get, pipe_put, pipe_t, pipes_allow, pipes_free, pipes_t
from fastpath.memory.ring cimport (
    ring_drop, ring_dropped, ring_free, ring_init, ring_put, ring_t, ring_take,
)
from fastpath.memory.slab cimport slab_free, slab_get, slab_init, slab_put, slab_t
from fastpath.memory.wheel cimport (
    timeout_armed, timeout_disarm, timeout_t, wheel_advance, wheel_arm, wheel_idle, wheel_init,
    wheel_pop, wheel_t,
)

cdef extern from "<sched.h>" nogil:
    int sched_yield()


cdef class Slab:
    """A slab whose objects are told by their index."""

    cdef slab_t slab

    def __cinit__(self, n_objects, object_size):
        if slab_init(&self.slab, n_objects, object_size) != 0:
            raise MemoryError

    def __dealloc__(self):
        slab_free(&self.slab)

    def get(self):
        cdef void *taken = slab_get(&self.slab)
        if taken == NULL:
            return None
        memset(taken, 0xa5, self.slab.object_size)
        return (<uint64_t>taken - <uint64_t>self.slab.memory) // self.slab.stride

    def put(self, index):
        slab_put(&self.slab, self.slab.memory + <size_t>index * self.slab.stride)

    def peek(self, index, offset):
        """A byte of an object, or behind it."""
        return self.slab.memory[<size_t>index * self.slab.stride + <size_t>offset]

    @property
    def n_used(self):
        return self.slab.n_used


cdef class Ring:
    """A ring of records that are bytes."""

    cdef ring_t ring

    def __cinit__(self, n_records, record_size):
        cdef int result = ring_init(&self.ring, n_records, record_size)
        if result == FP_BAD:
            raise ValueError(f"{n_records} records: not a power of two")
        if result != FP_OK:
            raise MemoryError

    def __dealloc__(self):
        ring_free(&self.ring)

    def put(self, bytes record):
        """Whether there was room."""
        assert len(record) == self.ring.record_size
        return ring_put(&self.ring, <const uint8_t *>record) == FP_OK

    def take(self):
        cdef bytearray record = bytearray(self.ring.record_size)
        if ring_take(&self.ring, <uint8_t *>record) == FP_AGAIN:
            return None
        return bytes(record)

    def drop(self):
        ring_drop(&self.ring)

    @property
    def dropped(self):
        return ring_dropped(&self.ring)

    def put_numbers(self, uint64_t n):
        """Put 0, 1, 2, … n - 1 without the GIL, each in every 8 bytes of its record."""
        cdef uint64_t record[8]
        cdef uint64_t number = 0
        cdef int i
        assert self.ring.record_size == sizeof(record)
        with nogil:
            while number < n:
                for i in range(8):
                    record[i] = number
                if ring_put(&self.ring, record) == FP_OK:
                    number += 1
                else:
                    sched_yield()

    def take_numbers(self, uint64_t n):
        """Take n records; how many were not what they should be."""
        cdef uint64_t record[8]
        cdef uint64_t number = 0, n_wrong = 0
        cdef int i, wrong
        assert self.ring.record_size == sizeof(record)
        with nogil:
            while number < n:
                if ring_take(&self.ring, record) != FP_OK:
                    sched_yield()
                    continue
                wrong = 0
                for i in range(8):
                    wrong |= record[i] != number
                n_wrong += wrong
                number += 1
        return n_wrong


cdef class Wheel:
    """A wheel with timeouts that are told by their number."""

    cdef wheel_t wheel
    cdef timeout_t *timeouts

    def __cinit__(self, n_timeouts, now):
        self.timeouts = <timeout_t *>calloc(n_timeouts, sizeof(timeout_t))
        if self.timeouts == NULL:
            raise MemoryError
        wheel_init(&self.wheel, now)

    def __dealloc__(self):
        free(self.timeouts)

    def arm(self, int number, due):
        wheel_arm(&self.wheel, &self.timeouts[number], due)

    def disarm(self, int number):
        timeout_disarm(&self.timeouts[number])

    def is_armed(self, int number):
        return bool(timeout_armed(&self.timeouts[number]))

    def advance(self, now):
        """Move on to `now`; the numbers of what fired."""
        cdef timeout_t *fired
        numbers = []
        wheel_advance(&self.wheel, now)
        while True:
            fired = wheel_pop(&self.wheel)
            if fired == NULL:
                return numbers
            numbers.append(fired - self.timeouts)

    def idle(self):
        return wheel_idle(&self.wheel)


cdef class Pipes:
    """The pool of pipes; pipes are told by their index."""

    cdef pipes_t pipes

    def __cinit__(self, n_max):
        pipes_allow(&self.pipes, n_max)

    def __dealloc__(self):
        pipes_free(&self.pipes)

    def get(self):
        """The pipe's index and its size, or None."""
        cdef pipe_t *pipe = pipe_get(&self.pipes)
        return None if pipe == NULL else (pipe - &self.pipes.pipes[0], pipe.size)

    def put(self, int index, held):
        """Give one back that holds so many bytes."""
        self.pipes.pipes[index].held = held
        pipe_put(&self.pipes, &self.pipes.pipes[index])

    def allow(self, n_max):
        pipes_allow(&self.pipes, n_max)

    @property
    def n_made(self):
        return self.pipes.n_made
