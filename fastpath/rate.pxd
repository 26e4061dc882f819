"""How often something may be: the generic cell rate algorithm (ITU-T I.371, annex A).

One word says when the next one is due if they come evenly, and one that comes up to RATE_AHEAD_MS
before that conforms. So the rate is exact in the long run whenever somebody looks, and after a
quiet time `rate / 10 + 1` may be at once. Threads may share the word.
"""

from libc.stdint cimport uint32_t, uint64_t

from fastpath.atomics cimport load_relaxed, replace_relaxed


cdef enum:
    RATE_AHEAD_MS = 100         # one may look this late, too, without loss: several ticks
    NS_PER_S = 1000000000
    NS_PER_MS = 1000000


cdef inline uint64_t rate_interval_ns(uint32_t rate) noexcept nogil:
    return <uint64_t>NS_PER_S // rate


# 0: one may be, and is charged; else milliseconds to wait before asking again.
cdef inline uint32_t rate_wait_ms(uint64_t *due_ns, uint64_t now_ns, uint32_t rate) noexcept nogil:
    cdef uint64_t due = load_relaxed(due_ns)
    cdef uint64_t ahead = now_ns + <uint64_t>RATE_AHEAD_MS * NS_PER_MS
    while due <= ahead:
        if replace_relaxed(due_ns, &due, max(due, now_ns) + rate_interval_ns(rate)):
            return 0
    return <uint32_t>((due - ahead + NS_PER_MS - 1) // NS_PER_MS)
