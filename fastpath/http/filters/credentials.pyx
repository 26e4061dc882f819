"""What was found of credentials, remembered for a while."""

from libc.string cimport memcpy

from fastpath.abi cimport fp_static_assert
from fastpath.hashing.siphash cimport siphash24
from fastpath.http.filters.basic cimport CREDENTIALS_SIZE_MAX
from fastpath.memory.lock cimport lock_give, lock_take


cdef void credentials_digest(uint64_t *digest, const credentials_t *self, const uint64_t *users,
                             const basic_t *basic) noexcept nogil:
    cdef uint8_t data[16 + CREDENTIALS_SIZE_MAX]
    cdef size_t size = 16 + basic.user_size + 1 + basic.password_size
    memcpy(data, users, 16)
    # A name has no colon, so there is one way to read it.
    memcpy(data + 16, basic.text, size - 16)
    digest[0] = siphash24(self.key[0], self.key[1], data, size)
    digest[1] = siphash24(self.key[2], self.key[3], data, size)


cdef inline bint is_right(const known_t *entry) noexcept nogil:
    return entry.until & 1


cdef inline bint is_past(const known_t *entry, uint64_t now_ms) noexcept nogil:
    return entry.until >> 1 <= now_ms


cdef inline known_bucket_t *bucket_of(credentials_t *self, const uint64_t *digest) noexcept nogil:
    return &self.buckets[digest[0] & (KNOWN_BUCKETS - 1)]


cdef inline known_t *entry_of(known_bucket_t *bucket, const uint64_t *digest) noexcept nogil:
    cdef int i
    for i in range(KNOWN_WAYS):
        if (bucket.entries[i].digest[0] == digest[0]
                and bucket.entries[i].digest[1] == digest[1]):
            return &bucket.entries[i]
    return NULL


cdef verdict_t credentials_find(credentials_t *self, const uint64_t *digest,
                                uint64_t now_ms) noexcept nogil:
    cdef known_bucket_t *bucket = bucket_of(self, digest)
    cdef const known_t *entry
    cdef verdict_t verdict = VERDICT_NONE
    fp_static_assert(sizeof(known_bucket_t) == 128)
    lock_take(&bucket.lock)
    entry = entry_of(bucket, digest)
    if entry != NULL and not is_past(entry, now_ms):
        verdict = VERDICT_RIGHT if is_right(entry) else VERDICT_WRONG
    lock_give(&bucket.lock)
    return verdict


cdef inline bint gives_way(const known_t *entry, const known_t *other,
                           uint64_t now_ms) noexcept nogil:
    """Whether it is worth less than the other one: what is past, what was wrong, what is older."""
    if is_past(entry, now_ms) != is_past(other, now_ms):
        return is_past(entry, now_ms)
    if is_right(entry) != is_right(other):
        return not is_right(entry)
    return entry.until < other.until


cdef void credentials_keep(credentials_t *self, const uint64_t *digest, bint right,
                           uint64_t now_ms) noexcept nogil:
    cdef known_bucket_t *bucket = bucket_of(self, digest)
    cdef known_t *entry
    cdef int i
    lock_take(&bucket.lock)
    entry = entry_of(bucket, digest)
    if entry == NULL:
        entry = &bucket.entries[0]
        for i in range(1, KNOWN_WAYS):
            if gives_way(&bucket.entries[i], entry, now_ms):
                entry = &bucket.entries[i]
        if not right and is_right(entry) and not is_past(entry, now_ms):
            entry = NULL
    if entry != NULL:
        entry.digest[0] = digest[0]
        entry.digest[1] = digest[1]
        entry.until = 2 * (now_ms + (RIGHT_MS if right else WRONG_MS)) + right
    lock_give(&bucket.lock)
