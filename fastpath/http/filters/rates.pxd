"""rate_limit: how often a client, or whoever sends a header's value, may ask.

The generic cell rate algorithm (ITU-T I.371, annex A): one time for each key says when its next
request is due if they come evenly; one that comes up to `ahead_ns` before that conforms. All
workers share a table of fixed size, so a limit is exact, whatever connections go where. A key whose
time is past is as good as a new one, so its place is free; when none of a key's places is, the one
closest to that gives way, and whoever had it begins anew.
"""

from libc.stdint cimport uint32_t, uint64_t

from fastpath.http.answers cimport reply_t
from fastpath.http.filters.table cimport rate_t
from fastpath.http.state cimport client_t
from fastpath.abi cimport route_t
from fastpath.loop cimport loop_t
from fastpath.memory.lock cimport lock_t

cdef enum:
    RATE_BUCKETS = 4096         # a power of two
    RATE_WAYS = 7               # of a bucket: two cache lines with the lock

cdef struct rate_entry_t:
    uint64_t key                # 0: nobody's
    uint64_t due_ns

cdef struct rate_bucket_t:
    lock_t lock
    uint64_t spare
    rate_entry_t entries[RATE_WAYS]

cdef struct rates_t:            # zeroed: empty
    rate_bucket_t buckets[RATE_BUCKETS]

# 0: the request conforms and is charged; else nanoseconds until one will.
cdef uint64_t rates_take(rates_t *self, uint64_t key, uint64_t now_ns, uint64_t interval_ns,
                         uint64_t ahead_ns) noexcept nogil

# Retry-After of an answer of our own, as the first of its fields.
cdef void rates_tell(reply_t *reply, uint64_t wait_ns) noexcept nogil

# For a request whose head is in `client.head`: 0, or -REFUSE_RATE with Retry-After in the reply.
cdef int rate_check(loop_t *loop, client_t *client, const rate_t *rate,
                    const route_t *route) noexcept nogil
