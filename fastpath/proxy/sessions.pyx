"""Who talks to whom over UDP: sessions, found by client, ended by age."""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcmp, memset

from fastpath.abi cimport FP_FULL, FP_OK, fp_assert
from fastpath.memory.slab cimport slab_free, slab_get, slab_init, slab_put


cdef enum:
    BUCKETS = 2 * SESSIONS_MAX


cdef int sessions_init(sessions_t *self) noexcept nogil:
    if (
        slab_init(&self.slab, SESSIONS_MAX, sizeof(session_t)) != FP_OK
        or slab_init(&self.table_memory, 1, BUCKETS * sizeof(session_t *)) != FP_OK
        or slab_init(&self.datagram_memory, 1, DATAGRAM_SIZE) != FP_OK
    ):
        sessions_free(self)
        return FP_FULL
    self.table = <session_t **>slab_get(&self.table_memory)         # fresh pages are zero
    self.datagram = <uint8_t *>slab_get(&self.datagram_memory)
    return FP_OK


cdef void sessions_free(sessions_t *self) noexcept nogil:
    fp_assert(self.n == 0)
    slab_free(&self.slab)
    slab_free(&self.table_memory)
    slab_free(&self.datagram_memory)
    self.table = NULL
    self.datagram = NULL


cdef void _age(sessions_t *self, session_t *session, uint8_t age) noexcept nogil:
    """Put it into a list as the newest."""
    cdef ages_t *ages = &self.ages[age]
    session.age = age
    session.newer = NULL
    session.older = ages.newest
    if ages.newest != NULL:
        ages.newest.newer = session
    else:
        ages.oldest = session
    ages.newest = session


cdef void _unage(sessions_t *self, session_t *session) noexcept nogil:
    """Take it out of its list."""
    cdef ages_t *ages = &self.ages[session.age]
    if session.newer != NULL:
        session.newer.older = session.older
    else:
        ages.newest = session.older
    if session.older != NULL:
        session.older.newer = session.newer
    else:
        ages.oldest = session.newer


cdef session_t *sessions_find(
    sessions_t *self, uint64_t hash, uint16_t listener_slot, const parties_t *parties
) noexcept nogil:
    cdef session_t *session = self.table[hash % BUCKETS]
    while session != NULL:
        if (
            session.hash == hash
            and session.listener_slot == listener_slot
            and memcmp(&session.parties, parties, sizeof(parties_t)) == 0
        ):
            return session
        session = session.chain
    return NULL


cdef session_t *sessions_add(
    sessions_t *self, uint64_t hash, uint16_t listener_slot, const parties_t *parties,
    uint64_t now_ms,
) noexcept nogil:
    cdef session_t **bucket = &self.table[hash % BUCKETS]
    cdef session_t *session = <session_t *>slab_get(&self.slab)
    fp_assert(session != NULL)
    memset(session, 0, sizeof(session_t))
    session.upstream.fd = -1
    session.used_ms = now_ms
    session.hash = hash
    session.listener_slot = listener_slot
    session.parties = parties[0]
    session.chain = bucket[0]
    bucket[0] = session
    _age(self, session, AGE_UNREPLIED)
    self.n += 1
    return session


cdef void sessions_remove(sessions_t *self, session_t *session) noexcept nogil:
    cdef session_t **place = &self.table[session.hash % BUCKETS]
    fp_assert(session.upstream.fd < 0)
    while place[0] != session:
        place = &place[0].chain
    place[0] = session.chain
    _unage(self, session)
    self.n -= 1
    slab_put(&self.slab, session)


cdef void sessions_touch(
    sessions_t *self, session_t *session, uint8_t age, uint64_t now_ms
) noexcept nogil:
    session.used_ms = now_ms
    _unage(self, session)
    _age(self, session, age)


cdef session_t *sessions_oldest(sessions_t *self) noexcept nogil:
    if self.ages[AGE_UNREPLIED].oldest != NULL:
        return self.ages[AGE_UNREPLIED].oldest
    return self.ages[AGE_REPLIED].oldest


cdef inline uint64_t _due_ms(const session_t *session) noexcept nogil:
    """When it will have been silent for too long."""
    return session.used_ms + (REPLIED_MS if session.age == AGE_REPLIED else UNREPLIED_MS)


cdef session_t *sessions_expired(sessions_t *self, uint64_t now_ms) noexcept nogil:
    cdef session_t *oldest
    cdef int age
    for age in range(<int>AGE_COUNT):
        oldest = self.ages[age].oldest
        if oldest != NULL and _due_ms(oldest) <= now_ms:
            return oldest
    return NULL


cdef uint32_t sessions_patience(sessions_t *self, uint64_t now_ms) noexcept nogil:
    cdef uint64_t due_ms = now_ms + UNREPLIED_MS
    cdef session_t *oldest
    cdef int age
    for age in range(<int>AGE_COUNT):
        oldest = self.ages[age].oldest
        if oldest != NULL:
            due_ms = min(due_ms, _due_ms(oldest))
    return <uint32_t>(due_ms - now_ms) if due_ms > now_ms else 0
