"""A hierarchical timing wheel (Varghese and Lauck 1987): arm, disarm and expire in O(1)."""

from libc.stdint cimport uint64_t
from libc.string cimport memset

cdef extern from * nogil:
    int count_zeros "__builtin_ctzll" (unsigned long long)


cdef inline void _push(timeout_t **head, timeout_t *timeout) noexcept nogil:
    timeout.next = head[0]
    timeout.back = head
    if timeout.next != NULL:
        timeout.next.back = &timeout.next
    head[0] = timeout


cdef void wheel_init(wheel_t *self, uint64_t now) noexcept nogil:
    memset(self, 0, sizeof(wheel_t))
    self.now = now


cdef void _place(wheel_t *self, timeout_t *timeout) noexcept nogil:
    """Put a timeout whose `due` is after `now` where its slot comes round in time.

    Level L holds what differs from `now` in the digits up to L (base 64): then the slot of that
    digit is reached when all lower digits are zero, and its timeouts move one level down or fire.
    """
    cdef uint64_t differing = timeout.due ^ self.now
    cdef int level = 0
    while level < WHEEL_LEVELS - 1 and differing >> (WHEEL_BITS * (level + 1)) != 0:
        level += 1
    cdef uint64_t slot = timeout.due >> (WHEEL_BITS * level)
    if slot - (self.now >> (WHEEL_BITS * level)) >= WHEEL_SLOTS:
        slot = (self.now >> (WHEEL_BITS * level)) + WHEEL_SLOTS - 1     # beyond the last level
    slot &= WHEEL_SLOTS - 1
    self.occupied[level] |= <uint64_t>1 << slot
    _push(&self.slots[level][slot], timeout)


cdef void wheel_arm(wheel_t *self, timeout_t *timeout, uint64_t due) noexcept nogil:
    timeout_disarm(timeout)
    timeout.due = due if due > self.now else self.now + 1
    _place(self, timeout)


cdef void _empty(wheel_t *self, int level, uint64_t slot) noexcept nogil:
    """Take all timeouts out of a slot that has come: those due expire, the others move down."""
    cdef timeout_t *timeout = self.slots[level][slot]
    cdef timeout_t *following
    self.slots[level][slot] = NULL
    self.occupied[level] &= ~(<uint64_t>1 << slot)
    while timeout != NULL:
        following = timeout.next
        if timeout.due <= self.now:
            _push(&self.expired, timeout)
        else:
            _place(self, timeout)
        timeout = following


cdef uint64_t _next_event(wheel_t *self) noexcept nogil:
    """The first tick after `now` whose slot in some level may hold something; 0 when none does."""
    cdef uint64_t best = 0
    cdef uint64_t position, turned, tick
    cdef int level, shift
    for level in range(WHEEL_LEVELS):
        if self.occupied[level] == 0:
            continue
        shift = WHEEL_BITS * level
        position = (self.now >> shift) + 1          # the first slot of this level still to come
        turned = self.occupied[level]
        if position & (WHEEL_SLOTS - 1):
            turned = (turned >> (position & (WHEEL_SLOTS - 1))) | (
                turned << (WHEEL_SLOTS - (position & (WHEEL_SLOTS - 1)))
            )
        tick = (position + <uint64_t>count_zeros(turned)) << shift
        if best == 0 or tick < best:
            best = tick
    return best


cdef void wheel_advance(wheel_t *self, uint64_t now) noexcept nogil:
    cdef uint64_t tick
    cdef int level, shift
    while True:
        tick = _next_event(self)
        if tick == 0 or tick > now:
            break
        self.now = tick
        # From the top: what moves down may be due at this very tick.
        for level in range(WHEEL_LEVELS - 1, -1, -1):
            shift = WHEEL_BITS * level
            if tick & ((<uint64_t>1 << shift) - 1) == 0:
                _empty(self, level, (tick >> shift) & (WHEEL_SLOTS - 1))
    if now > self.now:
        self.now = now


cdef timeout_t *wheel_pop(wheel_t *self) noexcept nogil:
    cdef timeout_t *timeout = self.expired
    if timeout != NULL:
        timeout_disarm(timeout)
    return timeout


cdef long wheel_idle(wheel_t *self) noexcept nogil:
    if self.expired != NULL:
        return 0
    cdef uint64_t tick = _next_event(self)
    return <long>(tick - self.now) if tick != 0 else -1
