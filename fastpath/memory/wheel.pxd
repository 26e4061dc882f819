"""A hierarchical timing wheel (Varghese and Lauck 1987): arm, disarm and expire in O(1).

Time is a count of ticks. Four levels of 64 slots reach 64^4 ticks ahead (74 hours at 16 ms); what
is due later waits in the last level and is put back when it comes round. A timeout never fires
early and, given prompt calls, less than two ticks late.
"""

from libc.stdint cimport uint64_t


cdef enum:
    WHEEL_LEVELS = 4
    WHEEL_BITS = 6
    WHEEL_SLOTS = 64            # 1 << WHEEL_BITS; one bit each in wheel_t.occupied


cdef struct timeout_t:          # embedded in what it is for; zeroed = disarmed
    timeout_t *next
    timeout_t **back            # the pointer that points here; NULL when disarmed
    uint64_t due                # tick
    void *fire                  # a loop's timeout_fn
    void *owner                 # for `fire`


cdef struct wheel_t:
    uint64_t now                # every tick up to this one is done
    uint64_t occupied[WHEEL_LEVELS]     # may have bits of slots that emptied since
    timeout_t *slots[WHEEL_LEVELS][WHEEL_SLOTS]
    timeout_t *expired          # due, in wait of wheel_pop


cdef void wheel_init(wheel_t *self, uint64_t now) noexcept nogil
# (Re)arm to fire when `due` has come; at the next tick when that is past.
cdef void wheel_arm(wheel_t *self, timeout_t *timeout, uint64_t due) noexcept nogil
# Move time on; what is due then comes out of wheel_pop.
cdef void wheel_advance(wheel_t *self, uint64_t now) noexcept nogil
# The next expired timeout, disarmed, or NULL.
cdef timeout_t *wheel_pop(wheel_t *self) noexcept nogil
# Ticks from `now` until wheel_advance has work; -1 when nothing is armed. Never too many.
cdef long wheel_idle(wheel_t *self) noexcept nogil


cdef inline bint timeout_armed(const timeout_t *self) noexcept nogil:
    """Whether it is armed, or expired and not yet popped."""
    return self.back != NULL


cdef inline void timeout_disarm(timeout_t *self) noexcept nogil:
    """Make sure that it does not fire."""
    if self.back != NULL:
        self.back[0] = self.next
        if self.next != NULL:
            self.next.back = self.back
        self.back = NULL
        self.next = NULL
