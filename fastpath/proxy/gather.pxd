"""Whether to let datagrams gather for a moment before the next look, as network cards do.

A worker that is quicker than those who send finds one or two datagrams at each look, and pays a
message's way through the kernel for each; a few microseconds later they would go together. That is
worth waiting for only if they come at a rate that lets several come meanwhile, and in a row: when
each is the answer to the one before it, nothing comes but later.
"""

from libc.stdint cimport uint32_t, uint64_t


cdef enum:
    GATHER_US = 20              # asked for; the kernel takes up to 50 more (PR_SET_TIMERSLACK)
    GATHER_LEAST = 2            # messages that are to come meanwhile, at the rate of the last turn
    GATHER_MOST = 32            # a turn with so many has gathered enough


cdef struct gather_t:           # zeroed: none yet
    uint64_t last_us            # when the last turn with messages began
    uint32_t n                  # messages of this turn, whichever way they go
    uint32_t n_following        # of them, those whose session got the one before it the same way


cdef inline void gather_note(gather_t *self, bint following) noexcept nogil:
    """A message has come."""
    self.n += 1
    self.n_following += following


cdef inline uint32_t gather_wait_us(gather_t *self, uint64_t now_us) noexcept nogil:
    """A turn that began at `now_us` is over: how long to wait before the next; 0: not at all."""
    cdef uint64_t passed_us = now_us - self.last_us
    cdef bint worth_it = (
        0 < self.n < GATHER_MOST
        and 2 * self.n_following >= self.n
        and <uint64_t>self.n * GATHER_US >= GATHER_LEAST * passed_us
    )
    if self.n > 0:
        self.last_us = now_us
    self.n = 0
    self.n_following = 0
    return GATHER_US if worth_it else 0
