"""Python's way into slab, ring and wheel, for the tests; built with PIAGENT_PROBE=1 only."""

from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from fastpath.abi cimport FP_AGAIN, FP_BAD, FP_OK
from fastpath.memory cimport ring as c_ring
from fastpath.memory cimport pipes as c_pipes
from fastpath.memory cimport slab as c_slab
from fastpath.memory cimport wheel as c_wheel

cdef extern from "<sched.h>" nogil:
    int sched_yield()


cdef class Slab:
    """A slab whose objects are told by their index."""

    cdef c_slab.slab_t slab

    def __cinit__(self, n_objects, object_size):
        if c_slab.slab_init(&self.slab, n_objects, object_size) != 0:
            raise MemoryError

    def __dealloc__(self):
        c_slab.slab_free(&self.slab)

    def get(self):
        cdef void *taken = c_slab.slab_get(&self.slab)
        if taken == NULL:
            return None
        memset(taken, 0xa5, self.slab.object_size)
        return (<uint64_t>taken - <uint64_t>self.slab.memory) // self.slab.object_size

    def put(self, index):
        c_slab.slab_put(&self.slab, self.slab.memory + <size_t>index * self.slab.object_size)

    @property
    def n_used(self):
        return self.slab.n_used


cdef class Ring:
    """A ring of records that are bytes."""

    cdef c_ring.ring_t ring

    def __cinit__(self, n_records, record_size):
        cdef int result = c_ring.ring_init(&self.ring, n_records, record_size)
        if result == FP_BAD:
            raise ValueError(f"{n_records} records: not a power of two")
        if result != FP_OK:
            raise MemoryError

    def __dealloc__(self):
        c_ring.ring_free(&self.ring)

    def put(self, bytes record):
        """Whether there was room."""
        assert len(record) == self.ring.record_size
        return c_ring.ring_put(&self.ring, <const uint8_t *>record) == FP_OK

    def take(self):
        cdef bytearray record = bytearray(self.ring.record_size)
        if c_ring.ring_take(&self.ring, <uint8_t *>record) == FP_AGAIN:
            return None
        return bytes(record)

    def drop(self):
        c_ring.ring_drop(&self.ring)

    @property
    def dropped(self):
        return c_ring.ring_dropped(&self.ring)

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
                if c_ring.ring_put(&self.ring, record) == FP_OK:
                    number += 1
                else:
                    sched_yield()

    def take_numbers(self, uint64_t n):
        """Take n records; the first number that is not what it should be, or None."""
        cdef uint64_t record[8]
        cdef uint64_t number = 0
        cdef int i, wrong = 0
        assert self.ring.record_size == sizeof(record)
        with nogil:
            while number < n and not wrong:
                if c_ring.ring_take(&self.ring, record) != FP_OK:
                    sched_yield()
                    continue
                for i in range(8):
                    wrong |= record[i] != number
                number += 1
        return number - 1 if wrong else None


cdef class Wheel:
    """A wheel with timeouts that are told by their number."""

    cdef c_wheel.wheel_t wheel
    cdef c_wheel.timeout_t *timeouts

    def __cinit__(self, n_timeouts, now):
        self.timeouts = <c_wheel.timeout_t *>calloc(n_timeouts, sizeof(c_wheel.timeout_t))
        if self.timeouts == NULL:
            raise MemoryError
        c_wheel.wheel_init(&self.wheel, now)

    def __dealloc__(self):
        free(self.timeouts)

    def arm(self, int number, due):
        c_wheel.wheel_arm(&self.wheel, &self.timeouts[number], due)

    def disarm(self, int number):
        c_wheel.timeout_disarm(&self.timeouts[number])

    def is_armed(self, int number):
        return bool(c_wheel.timeout_armed(&self.timeouts[number]))

    def advance(self, now):
        """Move on to `now`; the numbers of what fired."""
        cdef c_wheel.timeout_t *fired
        numbers = []
        c_wheel.wheel_advance(&self.wheel, now)
        while True:
            fired = c_wheel.wheel_pop(&self.wheel)
            if fired == NULL:
                return numbers
            numbers.append(fired - self.timeouts)

    def idle(self):
        return c_wheel.wheel_idle(&self.wheel)


cdef class Pipes:
    """The pool of pipes; pipes are told by their index."""

    cdef c_pipes.pipes_t pipes

    def __cinit__(self, n_max):
        c_pipes.pipes_allow(&self.pipes, n_max)

    def __dealloc__(self):
        c_pipes.pipes_free(&self.pipes)

    def get(self):
        """The pipe's index and its size, or None."""
        cdef c_pipes.pipe_t *pipe = c_pipes.pipe_get(&self.pipes)
        return None if pipe == NULL else (pipe - &self.pipes.pipes[0], pipe.size)

    def put(self, int index, held):
        """Give one back that holds so many bytes."""
        self.pipes.pipes[index].held = held
        c_pipes.pipe_put(&self.pipes, &self.pipes.pipes[index])

    def allow(self, n_max):
        c_pipes.pipes_allow(&self.pipes, n_max)

    @property
    def n_made(self):
        return self.pipes.n_made
