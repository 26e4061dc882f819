"""Slab, ring, wheel and pipes, driven at random beside models; built with PIAGENT_PROBE=1 only.

The models are arrays that are searched from end to end.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset

from fastpath.abi cimport FP_AGAIN, FP_FULL, FP_OK
from fastpath.hashing.bits cimport draw64
from fastpath.memory.pipes cimport (
    PIPE_SIZE_MIN, PIPES_MAX, pipe_get, pipe_put, pipe_t, pipes_allow, pipes_free, pipes_t,
)
from fastpath.memory.ring cimport (
    ring_drop, ring_dropped, ring_free, ring_init, ring_put, ring_t, ring_take,
)
from fastpath.memory.slab cimport slab_free, slab_get, slab_init, slab_put, slab_t
from fastpath.memory.wheel cimport (
    timeout_armed, timeout_disarm, timeout_t, wheel_advance, wheel_arm, wheel_idle, wheel_init,
    wheel_pop, wheel_t,
)


cdef class Fuzz:
    """See _fuzz.pxd."""

    def __cinit__(self, *, seed, **_):
        self.seed = seed

    def run(self, uint64_t n_steps):
        """Go on; None, or the number of the first step after which the two differ, and in what."""
        with nogil:
            while n_steps > 0 and self.difference == NULL:
                n_steps -= 1
                self.step()
                self.n_steps += 1
        if self.difference == NULL:
            return None
        return self.n_steps, self.difference.decode()

    cdef void step(self) noexcept nogil:
        pass

    cdef uint32_t roll(self, uint32_t n) noexcept nogil:
        self.n_drawn += 1
        return <uint32_t>(draw64(self.seed, self.n_drawn) % n)

    cdef uint64_t roll_bits(self, uint32_t n_bits) noexcept nogil:
        cdef uint32_t n = self.roll(n_bits + 1)
        self.n_drawn += 1
        return draw64(self.seed, self.n_drawn) & ((<uint64_t>1 << n) - 1)

    cdef void expect(self, bint agree, const char *what) noexcept nogil:
        if not agree and self.difference == NULL:
            self.difference = what


cdef enum:
    MANY = 64                   # of what a model counts one by one


cdef class SlabFuzz(Fuzz):
    """Against an array of what is held; each object is full of a number of its own."""

    cdef slab_t slab
    cdef uint8_t *held[MANY]
    cdef uint8_t fill[MANY]
    cdef uint32_t n_held
    cdef uint8_t *last          # put back last; NULL: not right before
    cdef uint32_t puts          # of eight steps so many put back, more or less

    def __cinit__(self, *, seed, n_objects, object_size):
        if n_objects > MANY or slab_init(&self.slab, n_objects, object_size) != FP_OK:
            raise MemoryError

    def __dealloc__(self):
        slab_free(&self.slab)

    cdef void step(self) noexcept nogil:
        if self.roll(100) == 0:
            self.puts = self.roll(9)
        if self.n_held > 0 and self.roll(8) < self.puts:
            self._put(self.roll(self.n_held))
        else:
            self._get()
        self.expect(self.slab.n_used == self.n_held, b"how many are used")
        if self.n_held > 0:
            self._look_at(self.roll(self.n_held))

    cdef void _get(self) noexcept nogil:
        cdef uint8_t *taken = <uint8_t *>slab_get(&self.slab)
        cdef uint8_t *memory = self.slab.memory
        cdef uint32_t i
        self.expect((taken == NULL) == (self.n_held == self.slab.n_objects), b"whether one is left")
        if taken == NULL or self.n_held == self.slab.n_objects:
            return
        self.expect(self.last == NULL or taken == self.last, b"the last one first")
        self.expect(
            memory <= taken and taken + self.slab.object_size <= memory + self.slab.memory_size,
            b"inside the memory",
        )
        self.expect(<uint64_t>taken % 16 == 0, b"aligned to 16")
        for i in range(self.n_held):
            self.expect(
                taken + self.slab.object_size <= self.held[i]
                or self.held[i] + self.slab.object_size <= taken,
                b"apart from all others",
            )
        self.last = NULL
        self.held[self.n_held] = taken
        self.fill[self.n_held] = <uint8_t>self.roll(256)
        memset(taken, self.fill[self.n_held], self.slab.object_size)
        self.n_held += 1

    cdef void _look_at(self, uint32_t i) noexcept nogil:
        cdef uint32_t at
        for at in range(self.slab.object_size):
            self.expect(self.held[i][at] == self.fill[i], b"content untouched")

    cdef void _put(self, uint32_t i) noexcept nogil:
        self._look_at(i)
        self.last = self.held[i]
        slab_put(&self.slab, self.held[i])
        self.n_held -= 1
        self.held[i] = self.held[self.n_held]
        self.fill[i] = self.fill[self.n_held]


cdef class RingFuzz(Fuzz):
    """Against two counts; a record's content follows from its number."""

    cdef ring_t ring
    cdef uint64_t n_put, n_taken, n_dropped
    cdef uint8_t expected[MANY]
    cdef uint8_t got[MANY]
    cdef uint32_t puts          # of eight steps so many put, more or less

    def __cinit__(self, *, seed, n_records, record_size, start):
        if record_size > MANY or ring_init(&self.ring, n_records, record_size) != FP_OK:
            raise MemoryError
        # As if so many had gone through: the counts may wrap around.
        self.ring.put.n_put = self.ring.put.n_taken = start
        self.ring.take.n_put = self.ring.take.n_taken = start

    def __dealloc__(self):
        ring_free(&self.ring)

    cdef void step(self) noexcept nogil:
        if self.roll(100) == 0:
            self.puts = self.roll(9)
        if self.roll(8) < self.puts:
            self._put()
        else:
            self._take()
        self.expect(ring_dropped(&self.ring) == self.n_dropped, b"how many were dropped")

    cdef void _fill(self, uint64_t number) noexcept nogil:
        cdef uint32_t i
        for i in range(self.ring.record_size):
            self.expected[i] = <uint8_t>draw64(number, i)

    cdef void _put(self) noexcept nogil:
        cdef bint is_full = self.n_put - self.n_taken == self.ring.n_records
        cdef int result
        self._fill(self.n_put)
        result = ring_put(&self.ring, self.expected)
        self.expect(result == (FP_FULL if is_full else FP_OK), b"whether there was room")
        if result == FP_OK:
            self.n_put += 1
        elif self.roll(2):
            ring_drop(&self.ring)
            self.n_dropped += 1

    cdef void _take(self) noexcept nogil:
        cdef bint is_empty = self.n_put == self.n_taken
        cdef int result
        memset(self.expected, 0xa5, sizeof(self.expected))
        memset(self.got, 0xa5, sizeof(self.got))
        if not is_empty:
            self._fill(self.n_taken)
        result = ring_take(&self.ring, self.got)
        self.expect(result == (FP_AGAIN if is_empty else FP_OK), b"whether there was one")
        self.expect(memcmp(self.got, self.expected, sizeof(self.got)) == 0, b"what was in it")
        self.n_taken += result == FP_OK


cdef class WheelFuzz(Fuzz):
    """Against an array of due ticks."""

    cdef wheel_t wheel
    cdef timeout_t timeouts[MANY]
    cdef uint64_t due[MANY]     # 0: not armed
    cdef uint32_t n_timeouts
    cdef uint32_t n_bits        # of delays at most
    cdef uint64_t now

    def __cinit__(self, *, seed, n_timeouts, n_bits, start):
        if n_timeouts > MANY:
            raise MemoryError
        self.n_timeouts = n_timeouts
        self.n_bits = n_bits
        self.now = start
        wheel_init(&self.wheel, start)

    cdef void step(self) noexcept nogil:
        cdef uint32_t i = self.roll(self.n_timeouts)
        cdef uint32_t what = self.roll(8)
        cdef long idle
        if what < 4:
            self._arm(i)
        elif what == 4:
            self._disarm(i)
        elif what == 5:
            self._advance(self.now + self.roll_bits(self.n_bits))
        else:
            idle = wheel_idle(&self.wheel)
            if idle > 0:
                self._advance(self.now + <uint64_t>idle)
        self._compare()

    cdef void _arm(self, uint32_t i) noexcept nogil:
        cdef uint64_t due = self.now + self.roll_bits(self.n_bits)
        if self.roll(16) == 0:
            due = self.roll(1000)           # long past, or far in the future
        wheel_arm(&self.wheel, &self.timeouts[i], due)
        self.due[i] = max(due, self.now + 1)

    cdef void _disarm(self, uint32_t i) noexcept nogil:
        timeout_disarm(&self.timeouts[i])
        self.due[i] = 0

    cdef void _advance(self, uint64_t now) noexcept nogil:
        """Move on, and do while timeouts fire what those who are called may do."""
        cdef timeout_t *fired
        cdef uint32_t i
        wheel_advance(&self.wheel, now)
        self.now = now
        while True:
            fired = wheel_pop(&self.wheel)
            if fired == NULL:
                break
            i = <uint32_t>(fired - &self.timeouts[0])
            self.expect(self.due[i] != 0, b"only what is armed fires")
            self.expect(self.due[i] <= now, b"nothing fires early")
            self.due[i] = 0
            if self.roll(4) == 0:
                self._arm(self.roll(self.n_timeouts))
            elif self.roll(8) == 0:
                self._disarm(self.roll(self.n_timeouts))
        for i in range(self.n_timeouts):
            self.expect(self.due[i] == 0 or self.due[i] > now, b"all that was due has fired")

    cdef void _compare(self) noexcept nogil:
        cdef uint64_t first = <uint64_t>-1
        cdef uint32_t i
        for i in range(self.n_timeouts):
            self.expect(
                timeout_armed(&self.timeouts[i]) == (self.due[i] != 0), b"what is armed"
            )
            if self.due[i] != 0:
                first = min(first, self.due[i])
        cdef long idle = wheel_idle(&self.wheel)
        self.expect(self.wheel.now == self.now, b"the time")
        if first == <uint64_t>-1:
            self.expect(idle == -1 or idle > 0, b"nothing to do at once when nothing is armed")
        else:
            self.expect(0 < idle and <uint64_t>idle <= first - self.now, b"awake in time")


cdef class PipesFuzz(Fuzz):
    """Against an array of what is out."""

    cdef pipes_t pipes
    cdef pipe_t *out[PIPES_MAX]
    cdef uint32_t n_out
    cdef uint32_t n_idle        # made, and in nobody's hands
    cdef uint32_t n_max
    cdef uint32_t dirty         # of so many that are put back one holds bytes

    def __cinit__(self, *, seed, n_max, dirty):
        self.n_max = n_max
        self.dirty = dirty
        pipes_allow(&self.pipes, n_max)

    def __dealloc__(self):
        while self.n_out > 0:
            self.n_out -= 1
            pipe_put(&self.pipes, self.out[self.n_out])
        pipes_free(&self.pipes)

    cdef void step(self) noexcept nogil:
        cdef uint32_t what = self.roll(64)
        if what == 0:
            self.n_max = self.roll(PIPES_MAX + 4)
            pipes_allow(&self.pipes, self.n_max)
            self.n_max = min(self.n_max, <uint32_t>PIPES_MAX)
        elif what % 2 and self.n_out > 0:
            self._put(self.roll(self.n_out))
        else:
            self._get()
        self.expect(self.pipes.n_free == self.n_idle, b"how many are idle")
        self.expect(self.pipes.n_made == self.n_idle + self.n_out, b"how many there are")

    cdef void _get(self) noexcept nogil:
        cdef bint is_there = self.n_idle > 0 or self.n_out < self.n_max
        cdef pipe_t *pipe = pipe_get(&self.pipes)
        cdef uint32_t i
        self.expect((pipe != NULL) == is_there, b"whether there is one")
        if pipe == NULL or not is_there:
            return
        for i in range(self.n_out):
            self.expect(self.out[i] != pipe, b"nobody else has it")
            self.expect(self.out[i].read_end != pipe.read_end, b"nor its descriptor")
        self.expect(pipe.held == 0 and pipe.size >= PIPE_SIZE_MIN, b"empty, and large enough")
        self.n_idle -= self.n_idle > 0
        self.out[self.n_out] = pipe
        self.n_out += 1

    cdef void _put(self, uint32_t i) noexcept nogil:
        self.out[i].held = 7 if self.roll(self.dirty) == 0 else 0
        self.n_idle += self.out[i].held == 0 and self.n_idle + self.n_out <= self.n_max
        pipe_put(&self.pipes, self.out[i])
        self.n_out -= 1
        self.out[i] = self.out[self.n_out]
