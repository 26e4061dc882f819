"""What is known of clients, in one table for all workers: open connections, and whose they were."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset

from fastpath.abi cimport FP_AGAIN, FP_FULL, FP_OK, fp_assert
from fastpath.hashing.siphash cimport siphash13
from fastpath.memory.lock cimport lock_give, lock_take
from fastpath.memory.slab cimport slab_free, slab_get, slab_init, slab_put
from fastpath.address cimport address_put, address_put_client
from fastpath.sys_linux cimport sockaddr_any_t


cdef enum:                      # client_key_t.kind
    COUNTED
    REMEMBERED


cdef int clients_init(
    clients_t *self, uint32_t capacity, const uint64_t *hash_key
) noexcept nogil:
    memset(self, 0, sizeof(clients_t))
    self.hash_key[0] = hash_key[0]
    self.hash_key[1] = hash_key[1]
    self.n_buckets = 1
    while self.n_buckets < capacity:
        self.n_buckets *= 2
    if (
        slab_init(&self.slab, capacity, sizeof(known_client_t)) != FP_OK
        or slab_init(
            &self.table_memory, 1, <uint32_t>(self.n_buckets * sizeof(known_client_t *))
        ) != FP_OK
    ):
        clients_free(self)
        return FP_FULL
    self.table = <known_client_t **>slab_get(&self.table_memory)    # fresh pages are zero
    return FP_OK


cdef void clients_free(clients_t *self) noexcept nogil:
    slab_free(&self.slab)
    slab_free(&self.table_memory)
    self.table = NULL


# ---- keys ----

cdef uint64_t _key(
    const clients_t *self, client_key_t *key, uint64_t service, const sockaddr_any_t *client,
    uint64_t kind,
) noexcept nogil:
    """Fill in a key and return its hash."""
    key.service = service
    key.kind = kind
    if kind == COUNTED:
        address_put_client(key.address, client)
    else:
        address_put(key.address, client)
    return siphash13(
        self.hash_key[0], self.hash_key[1], <const uint8_t *>key, sizeof(client_key_t)
    )


# ---- entries; the caller holds the lock ----

cdef inline known_client_t **_bucket(clients_t *self, uint64_t hash) noexcept nogil:
    return &self.table[hash & (self.n_buckets - 1)]


cdef known_client_t *_find(
    clients_t *self, const client_key_t *key, uint64_t hash
) noexcept nogil:
    cdef known_client_t *known = _bucket(self, hash)[0]
    while known != NULL:
        if known.hash == hash and memcmp(&known.key, key, sizeof(client_key_t)) == 0:
            return known
        known = known.chain
    return NULL


cdef void _link(clients_t *self, known_client_t *known) noexcept nogil:
    """Put it into the list of those remembered, as the newest."""
    known.newer = NULL
    known.older = self.newest
    if self.newest != NULL:
        self.newest.newer = known
    else:
        self.oldest = known
    self.newest = known


cdef void _unlink(clients_t *self, known_client_t *known) noexcept nogil:
    """Take it out of that list."""
    if known.newer != NULL:
        known.newer.older = known.older
    else:
        self.newest = known.older
    if known.older != NULL:
        known.older.newer = known.newer
    else:
        self.oldest = known.newer


cdef void _remove(clients_t *self, known_client_t *known) noexcept nogil:
    """Take it out of its bucket and give it back."""
    cdef known_client_t **place = _bucket(self, known.hash)
    while place[0] != known:
        place = &place[0].chain
    place[0] = known.chain
    slab_put(&self.slab, known)


cdef known_client_t *_add(
    clients_t *self, const client_key_t *key, uint64_t hash
) noexcept nogil:
    """A new entry in no list, in the place of the oldest one remembered if there is no other."""
    cdef known_client_t **bucket = _bucket(self, hash)
    cdef known_client_t *known = <known_client_t *>slab_get(&self.slab)
    if known == NULL and self.oldest != NULL:
        known = self.oldest
        _unlink(self, known)
        _remove(self, known)
        known = <known_client_t *>slab_get(&self.slab)
    if known == NULL:
        return NULL
    memset(known, 0, sizeof(known_client_t))
    known.hash = hash
    known.key = key[0]
    known.chain = bucket[0]
    bucket[0] = known
    return known


# ---- counting ----

cdef known_client_t *_count(
    clients_t *self, const client_key_t *key, uint64_t hash, uint32_t limit
) noexcept nogil:
    """The entry with one connection more, or NULL: as many are open as may be."""
    cdef known_client_t *known = _find(self, key, hash)
    if known == NULL and limit > 0:
        known = _add(self, key, hash)
    if known == NULL or known.n_open >= limit:
        return NULL
    known.n_open += 1
    return known


cdef int clients_enter(
    clients_t *self, uint64_t service, const sockaddr_any_t *client, uint32_t limit,
    known_client_t **counted,
) noexcept nogil:
    cdef client_key_t key
    cdef uint64_t hash = _key(self, &key, service, client, COUNTED)
    lock_take(&self.lock)
    counted[0] = _count(self, &key, hash, limit)
    lock_give(&self.lock)
    return FP_OK if counted[0] != NULL else FP_FULL


cdef void clients_leave(clients_t *self, known_client_t *counted) noexcept nogil:
    lock_take(&self.lock)
    fp_assert(counted.key.kind == COUNTED and counted.n_open > 0)
    counted.n_open -= 1
    if counted.n_open == 0:
        _remove(self, counted)
    lock_give(&self.lock)


# ---- remembering ----

cdef void clients_remember(
    clients_t *self, uint64_t service, const sockaddr_any_t *client, uint64_t backend,
    uint64_t now_ms,
) noexcept nogil:
    cdef client_key_t key
    cdef uint64_t hash = _key(self, &key, service, client, REMEMBERED)
    cdef known_client_t *known
    lock_take(&self.lock)
    known = _find(self, &key, hash)
    if known != NULL:
        _unlink(self, known)
    else:
        known = _add(self, &key, hash)
    if known != NULL:
        known.backend = backend
        known.used_ms = now_ms
        _link(self, known)
    lock_give(&self.lock)


cdef int clients_recall(
    clients_t *self, uint64_t service, const sockaddr_any_t *client, uint32_t timeout_ms,
    uint64_t now_ms, uint64_t *backend,
) noexcept nogil:
    cdef client_key_t key
    cdef uint64_t hash = _key(self, &key, service, client, REMEMBERED)
    cdef known_client_t *known
    cdef int result = FP_AGAIN
    lock_take(&self.lock)
    known = _find(self, &key, hash)
    # Another worker's clock may be a turn ahead.
    if known != NULL and (now_ms < known.used_ms or now_ms - known.used_ms < timeout_ms):
        backend[0] = known.backend
        result = FP_OK
    lock_give(&self.lock)
    return result
