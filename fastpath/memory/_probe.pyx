"""Python's way into the slab and the wheel, for the tests; built with PIAGENT_PROBE=1 only."""

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from fastpath.memory cimport slab as c_slab
from fastpath.memory cimport wheel as c_wheel


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
