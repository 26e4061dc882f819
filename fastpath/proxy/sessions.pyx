"""Who talks to whom over UDP: sessions, found by client, ended by age."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from fastpath.abi cimport FP_FULL, FP_OK, fp_assert
from fastpath.hashing.siphash cimport siphash13
from fastpath.memory.slab cimport slab_free, slab_get, slab_init, slab_put
from fastpath.address cimport address_put_client
from fastpath.proxy.batch cimport batch_free, batch_init


cdef enum:
    BUCKETS = 2 * SESSIONS_MAX
    KEY_SIZE = 18               # an address, the service's slot


cdef int sessions_init(sessions_t *self, const uint64_t *hash_key) noexcept nogil:
    if (
        slab_init(&self.slab, SESSIONS_MAX, sizeof(session_t)) != FP_OK
        or slab_init(&self.clients_slab, SESSIONS_MAX, sizeof(client_t)) != FP_OK
        or slab_init(&self.table_memory, 1, BUCKETS * sizeof(session_t *)) != FP_OK
        or slab_init(&self.clients_memory, 1, BUCKETS * sizeof(client_t *)) != FP_OK
        or batch_init(&self.batch) != FP_OK
    ):
        sessions_free(self)
        return FP_FULL
    self.hash_key[0] = hash_key[0]
    self.hash_key[1] = hash_key[1]
    self.table = <session_t **>slab_get(&self.table_memory)         # fresh pages are zero
    self.clients = <client_t **>slab_get(&self.clients_memory)
    return FP_OK


cdef void sessions_free(sessions_t *self) noexcept nogil:
    fp_assert(self.n == 0)
    slab_free(&self.slab)
    slab_free(&self.clients_slab)
    slab_free(&self.table_memory)
    slab_free(&self.clients_memory)
    batch_free(&self.batch)
    self.table = NULL
    self.clients = NULL


# ---- lists ----

cdef void _link(ages_t *ages, session_t *session, int which) noexcept nogil:
    """Put it into a list as the newest."""
    session.links[which].newer = NULL
    session.links[which].older = ages.newest
    if ages.newest != NULL:
        ages.newest.links[which].newer = session
    else:
        ages.oldest = session
    ages.newest = session


cdef void _unlink(ages_t *ages, session_t *session, int which) noexcept nogil:
    cdef links_t *links = &session.links[which]
    if links.newer != NULL:
        links.newer.links[which].older = links.older
    else:
        ages.newest = links.older
    if links.older != NULL:
        links.older.links[which].newer = links.newer
    else:
        ages.oldest = links.newer


cdef void _renew(
    sessions_t *self, session_t *session, uint8_t age, uint64_t now_ms
) noexcept nogil:
    """Make it the newest of its age."""
    session.used_ms = now_ms
    if session.age != age or self.ages[age].newest != session:
        _unlink(&self.ages[session.age], session, LIST_ALL)
        _link(&self.ages[age], session, LIST_ALL)
    if session.age != age or session.client.ages[age].newest != session:
        _unlink(&session.client.ages[session.age], session, LIST_CLIENT)
        _link(&session.client.ages[age], session, LIST_CLIENT)
    session.age = age


cdef void sessions_asked(sessions_t *self, session_t *session, uint64_t now_ms) noexcept nogil:
    _renew(
        self, session, AGE_UNREPLIED if session.age == AGE_UNREPLIED else AGE_ASSURED, now_ms
    )


cdef void sessions_answered(sessions_t *self, session_t *session, uint64_t now_ms) noexcept nogil:
    _renew(self, session, max(session.age, <uint8_t>AGE_REPLIED), now_ms)


cdef session_t *ages_oldest(ages_t *ages) noexcept nogil:
    cdef int age
    for age in range(<int>AGE_COUNT):
        if ages[age].oldest != NULL:
            return ages[age].oldest
    return NULL


# ---- clients ----

cdef uint64_t _key_of(
    const sessions_t *self, uint8_t *key, const sockaddr_any_t *client, uint16_t service_slot
) noexcept nogil:
    """Fill in KEY_SIZE bytes and return their hash."""
    address_put_client(key, client)
    key[16] = <uint8_t>(service_slot & 0xff)
    key[17] = <uint8_t>(service_slot >> 8)
    return siphash13(self.hash_key[0], self.hash_key[1], key, KEY_SIZE)


cdef client_t *_find_client(
    sessions_t *self, const uint8_t *key, uint64_t hash, uint16_t service_slot
) noexcept nogil:
    cdef client_t *client = self.clients[hash % BUCKETS]
    while client != NULL:
        if (
            client.hash == hash
            and client.service_slot == service_slot
            and memcmp(client.address, key, sizeof(client.address)) == 0
        ):
            return client
        client = client.chain
    return NULL


cdef client_t *sessions_of(
    sessions_t *self, const sockaddr_any_t *client, uint16_t service_slot
) noexcept nogil:
    cdef uint8_t key[KEY_SIZE]
    cdef uint64_t hash = _key_of(self, key, client, service_slot)
    return _find_client(self, key, hash, service_slot)


cdef client_t *_client(
    sessions_t *self, const sockaddr_any_t *address, uint16_t service_slot
) noexcept nogil:
    """The one that is there, or a new one."""
    cdef uint8_t key[KEY_SIZE]
    cdef uint64_t hash = _key_of(self, key, address, service_slot)
    cdef client_t *client = _find_client(self, key, hash, service_slot)
    if client != NULL:
        return client
    client = <client_t *>slab_get(&self.clients_slab)
    fp_assert(client != NULL)                   # each has a session
    memset(client, 0, sizeof(client_t))
    memcpy(client.address, key, sizeof(client.address))
    client.hash = hash
    client.service_slot = service_slot
    client.chain = self.clients[hash % BUCKETS]
    self.clients[hash % BUCKETS] = client
    return client


cdef void _forget_client(sessions_t *self, client_t *client) noexcept nogil:
    cdef client_t **place = &self.clients[client.hash % BUCKETS]
    while place[0] != client:
        place = &place[0].chain
    place[0] = client.chain
    slab_put(&self.clients_slab, client)


# ---- sessions ----

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
    uint16_t service_slot, uint64_t now_ms,
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
    session.client = _client(self, &parties.client, service_slot)
    session.client.n += 1
    _link(&self.ages[AGE_UNREPLIED], session, LIST_ALL)
    _link(&session.client.ages[AGE_UNREPLIED], session, LIST_CLIENT)
    self.n += 1
    return session


cdef void sessions_remove(sessions_t *self, session_t *session) noexcept nogil:
    cdef session_t **place = &self.table[session.hash % BUCKETS]
    fp_assert(session.upstream.fd < 0)
    fp_assert(session.first == NULL)
    while place[0] != session:
        place = &place[0].chain
    place[0] = session.chain
    _unlink(&self.ages[session.age], session, LIST_ALL)
    _unlink(&session.client.ages[session.age], session, LIST_CLIENT)
    session.client.n -= 1
    if session.client.n == 0:
        _forget_client(self, session.client)
    self.n -= 1
    slab_put(&self.slab, session)


cdef inline uint64_t _due_ms(const session_t *session) noexcept nogil:
    """When it will have been silent for too long."""
    return session.used_ms + (UNREPLIED_MS if session.age == AGE_UNREPLIED else REPLIED_MS)


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


# ---- what waits to be sent ----

cdef void sessions_wait(
    sessions_t *self, session_t *session, datagram_t *datagram
) noexcept nogil:
    datagram.next = NULL
    if session.first != NULL:
        session.last.next = datagram
        session.last = datagram
        return
    session.first = datagram
    session.last = datagram
    session.next_waiting = NULL
    if self.first_waiting != NULL:
        self.last_waiting.next_waiting = session
    else:
        self.first_waiting = session
    self.last_waiting = session


cdef session_t *sessions_waiting(sessions_t *self, datagram_t **messages) noexcept nogil:
    cdef session_t *session = self.first_waiting
    if session == NULL:
        return NULL
    self.first_waiting = session.next_waiting
    messages[0] = session.first
    session.first = NULL
    return session
