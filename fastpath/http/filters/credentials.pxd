"""What was found of credentials, remembered for a while: checking them anew takes far too long.

All workers share a table of fixed size, which has no credentials in it: a keyed digest of 128 bits
stands for a set of users, a name and a password, under a key that this process drew and nobody is
told. So another set of users leaves nothing that could be found, and no client can aim at a place.
What was right never makes room for what was wrong.
"""

from libc.stdint cimport uint8_t, uint64_t

from fastpath.memory.lock cimport lock_t
from fastpath.http.filters.basic cimport basic_t

cdef enum:
    KNOWN_BUCKETS = 1024        # a power of two
    KNOWN_WAYS = 5              # of a bucket: two cache lines with the lock
    RIGHT_MS = 300000           # so long what was right is remembered, …
    WRONG_MS = 10000            # … and what was wrong

cdef enum verdict_t:
    VERDICT_NONE = 0            # nobody knows
    VERDICT_RIGHT
    VERDICT_WRONG
    VERDICT_NEVER               # it was not checked, and will not be

cdef struct known_t:
    uint64_t digest[2]
    uint64_t until              # twice the time in ms, and 1 more when they were right; 0: free

cdef struct known_bucket_t:
    lock_t lock
    known_t entries[KNOWN_WAYS]

cdef struct credentials_t:      # zeroed but for the key: empty
    uint64_t key[4]
    known_bucket_t buckets[KNOWN_BUCKETS]

# Names what a client says to those users.
cdef void credentials_digest(uint64_t *digest, const credentials_t *self, const uint64_t *users,
                             const basic_t *basic) noexcept nogil

# VERDICT_RIGHT, VERDICT_WRONG or VERDICT_NONE.
cdef verdict_t credentials_find(credentials_t *self, const uint64_t *digest,
                                uint64_t now_ms) noexcept nogil
cdef void credentials_keep(credentials_t *self, const uint64_t *digest, bint right,
                           uint64_t now_ms) noexcept nogil
