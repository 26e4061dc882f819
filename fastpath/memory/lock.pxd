"""A lock for a few instructions between threads; nobody waits for the kernel while it is held.

On a machine with fewer cores than threads the holder may be off its core, so whoever waits lets
others run after a while.
"""

from libc.stdint cimport uint32_t, uint64_t

from fastpath.atomics cimport exchange_acquire, load_relaxed, relax, store_release
from fastpath.sys_linux cimport sched_yield


cdef enum:
    LOCK_SPINS = 64             # looks before others are let run


cdef struct lock_t:             # zeroed: free
    uint64_t held


cdef inline void lock_take(lock_t *self) noexcept nogil:
    """Wait for the lock and hold it; what its holder before wrote can be seen then."""
    cdef uint32_t spins = 0
    while exchange_acquire(&self.held, 1):
        while load_relaxed(&self.held):
            spins += 1
            if spins % LOCK_SPINS == 0:
                sched_yield()
            else:
                relax()


cdef inline void lock_give(lock_t *self) noexcept nogil:
    """Let go of the lock."""
    store_release(&self.held, 0)
