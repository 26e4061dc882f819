"""Ports of ours that NAT connects from: a pool for each backend and address of ours."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset

from fastpath.abi cimport FP_BAD, FP_FULL, FP_OK, FP_PORTS, fp_assert
from fastpath.hashing.siphash cimport siphash13
from fastpath.memory.slab cimport slab_free, slab_get, slab_init
from fastpath.sys_linux cimport htons, ntohs

cdef extern from * nogil:
    int count_zeros "__builtin_ctzll" (unsigned long long)
    int count_ones "__builtin_popcountll" (unsigned long long)


cdef enum:
    WORD_BITS = 64
    KINDS = 2 + PORT_SPANS      # of bits: taken, hurrying, and resting ones by span
    POOLS_MAX = 1 << 16
    HAND_STEPS = 64             # pools looked at for one that nobody is in
    NO_BIT = 0xffffffff


# ---- bits ----

cdef inline uint64_t _bit(uint32_t at) noexcept nogil:
    return <uint64_t>1 << (at % WORD_BITS)


cdef inline bint _has(const uint64_t *words, uint32_t at) noexcept nogil:
    return words[at // WORD_BITS] & _bit(at) != 0


cdef inline void _set(uint64_t *words, uint32_t at) noexcept nogil:
    words[at // WORD_BITS] |= _bit(at)


cdef inline void _clear(uint64_t *words, uint32_t at) noexcept nogil:
    words[at // WORD_BITS] &= ~_bit(at)


cdef uint32_t _next(
    const uint64_t *words, uint32_t n_words, uint32_t start, uint64_t inverted
) noexcept nogil:
    """The first bit from `start` on that is set, or with `inverted` of all ones clear; then from 0.
    """
    cdef uint32_t at = start // WORD_BITS
    cdef uint64_t word = (words[at] ^ inverted) & ~(_bit(start) - 1)
    cdef uint32_t left = n_words
    while word == 0:
        if left == 0:
            return NO_BIT
        left -= 1
        at = at + 1 if at + 1 < n_words else 0
        word = words[at] ^ inverted
    return at * WORD_BITS + <uint32_t>count_zeros(word)


# ---- life ----

cdef int nat_ports_init(
    nat_ports_t *self, uint16_t first_port, uint16_t last_port, uint16_t worker,
    uint16_t n_workers, uint32_t n_pools, const uint64_t *hash_key,
) noexcept nogil:
    cdef uint32_t first = first_port
    memset(self, 0, sizeof(nat_ports_t))
    if not (0 < n_pools <= POOLS_MAX and worker < n_workers):
        return FP_BAD
    first += (worker + n_workers - first % n_workers) % n_workers
    if first_port == 0 or first > last_port:
        return FP_BAD
    self.first_port = first
    self.step = n_workers
    self.n_ports = (last_port - first) // n_workers + 1
    self.n_words = (self.n_ports + WORD_BITS - 1) // WORD_BITS
    self.bucket_mask = 1
    while self.bucket_mask < n_pools:
        self.bucket_mask = 2 * self.bucket_mask + 1
    if (
        slab_init(&self.pools, n_pools, sizeof(nat_pool_t)) != FP_OK
        or slab_init(&self.bits, n_pools, KINDS * self.n_words * sizeof(uint64_t)) != FP_OK
        or slab_init(
            &self.buckets_memory, 1, (self.bucket_mask + 1) * <uint32_t>sizeof(uint32_t)
        ) != FP_OK
    ):
        nat_ports_free(self)
        return FP_FULL
    self.hash_key[0] = hash_key[0]
    self.hash_key[1] = hash_key[1]
    self.buckets = <uint32_t *>slab_get(&self.buckets_memory)       # fresh pages are zero
    return FP_OK


cdef void nat_ports_free(nat_ports_t *self) noexcept nogil:
    slab_free(&self.pools)
    slab_free(&self.bits)
    slab_free(&self.buckets_memory)
    memset(self, 0, sizeof(nat_ports_t))


# ---- pools; each is used for ever, by one peer after the other ----

cdef inline nat_pool_t *_pool(const nat_ports_t *self, uint32_t number) noexcept nogil:
    return <nat_pool_t *>(self.pools.memory + <size_t>(number - 1) * self.pools.stride)


cdef uint64_t _peer_of(
    const nat_ports_t *self, const flow_key_t *reply, flow_key_t *peer
) noexcept nogil:
    """Fill in what tells the pool and return its hash."""
    peer[0] = reply[0]
    peer.destination_port = 0
    return siphash13(
        self.hash_key[0], self.hash_key[1], <const uint8_t *>peer, sizeof(flow_key_t)
    )


cdef nat_pool_t *_find(
    const nat_ports_t *self, const flow_key_t *peer, uint32_t hash
) noexcept nogil:
    cdef uint32_t number = self.buckets[hash & self.bucket_mask]
    cdef nat_pool_t *pool
    while number != 0:
        pool = _pool(self, number)
        if pool.hash == hash and memcmp(&pool.peer, peer, sizeof(flow_key_t)) == 0:
            return pool
        number = pool.chain
    return NULL


cdef void _free_span(nat_ports_t *self, nat_pool_t *pool, uint64_t *resting) noexcept nogil:
    cdef uint32_t at
    cdef uint64_t word
    for at in range(self.n_words):
        word = resting[at]
        pool.taken[at] &= ~word
        pool.hurrying[at] &= ~word
        pool.n_taken -= <uint32_t>count_ones(word)
        resting[at] = 0


cdef void _go_on(nat_ports_t *self, nat_pool_t *pool, uint64_t now_ms) noexcept nogil:
    """Free what has rested."""
    cdef uint64_t span = now_ms // PORT_SPAN_MS
    cdef int left = PORT_SPANS
    while pool.span < span and left > 0:
        pool.span += 1
        left -= 1
        _free_span(self, pool, pool.resting[pool.span % PORT_SPANS])
    pool.span = max(pool.span, span)


cdef void _leave_bucket(nat_ports_t *self, const nat_pool_t *pool, uint32_t number) noexcept nogil:
    cdef uint32_t *place = &self.buckets[pool.hash & self.bucket_mask]
    while place[0] != number:
        place = &_pool(self, place[0]).chain
    place[0] = pool.chain


cdef nat_pool_t *_deserted(nat_ports_t *self, uint64_t now_ms, uint32_t *number) noexcept nogil:
    """A pool with nobody in it, out of its bucket; NULL: none of the next few."""
    cdef nat_pool_t *pool
    cdef int left = HAND_STEPS
    while left > 0:
        left -= 1
        self.hand = self.hand % self.pools.n_objects + 1
        pool = _pool(self, self.hand)
        if pool.n_used == 0:
            _go_on(self, pool, now_ms)
        if pool.n_taken == 0:
            _leave_bucket(self, pool, self.hand)
            number[0] = self.hand
            return pool
    return NULL


cdef nat_pool_t *_fresh(nat_ports_t *self, uint32_t *number) noexcept nogil:
    """A pool that was never used, with memory for its bits; NULL: there is none."""
    cdef nat_pool_t *pool = <nat_pool_t *>slab_get(&self.pools)
    cdef uint64_t *bits
    cdef uint32_t kind
    if pool == NULL:
        return NULL
    bits = <uint64_t *>slab_get(&self.bits)                 # zero, as every fresh page
    number[0] = self.pools.n_used
    pool.taken = bits
    pool.hurrying = bits + self.n_words
    for kind in range(<uint32_t>PORT_SPANS):
        pool.resting[kind] = bits + (2 + kind) * self.n_words
    if self.n_ports % WORD_BITS != 0:
        pool.taken[self.n_words - 1] = ~(_bit(self.n_ports) - 1)    # there are no such ports
    return pool


cdef nat_pool_t *_pool_of(
    nat_ports_t *self, const flow_key_t *reply, uint64_t now_ms
) noexcept nogil:
    """The one that is there, or a new one; NULL: there is no room. What has rested is free."""
    cdef flow_key_t peer
    cdef uint32_t hash = <uint32_t>_peer_of(self, reply, &peer)
    cdef nat_pool_t *pool = _find(self, &peer, hash)
    cdef uint32_t number = 0
    if pool == NULL:
        pool = _fresh(self, &number)
        if pool == NULL:
            pool = _deserted(self, now_ms, &number)
        if pool == NULL:
            return NULL
        pool.peer = peer
        pool.hash = hash
        pool.chain = self.buckets[hash & self.bucket_mask]
        self.buckets[hash & self.bucket_mask] = number
    _go_on(self, pool, now_ms)
    return pool


# ---- ports ----

cdef void _end_rest(nat_pool_t *pool, uint32_t at) noexcept nogil:
    cdef int span
    for span in range(PORT_SPANS):
        _clear(pool.resting[span], at)
    _clear(pool.hurrying, at)


cdef bint _rests(const nat_pool_t *pool, uint32_t at) noexcept nogil:
    cdef int span
    for span in range(PORT_SPANS):
        if _has(pool.resting[span], at):
            return True
    return False


cdef inline void _use(nat_pool_t *pool, uint32_t at) noexcept nogil:
    pool.n_used += 1
    pool.n_taken += 1
    _set(pool.taken, at)


cdef int nat_ports_take(
    nat_ports_t *self, flow_key_t *reply, uint64_t hash, uint64_t now_ms
) noexcept nogil:
    cdef nat_pool_t *pool = _pool_of(self, reply, now_ms)
    # From the high bits: the low ones say in which worker and place the flow is.
    cdef uint32_t start = <uint32_t>((hash >> 32) * self.n_ports >> 32)
    cdef uint32_t at = NO_BIT
    if pool == NULL:
        return FP_FULL
    if pool.n_taken < self.n_ports:
        at = _next(pool.taken, self.n_words, start, <uint64_t>-1)
    else:
        at = _next(pool.hurrying, self.n_words, start, 0)
        if at == NO_BIT:
            return FP_PORTS
        _end_rest(pool, at)
        pool.n_taken -= 1
    _use(pool, at)
    reply.destination_port = htons(<uint16_t>(self.first_port + at * self.step))
    return FP_OK


cdef uint32_t _place_of(const nat_ports_t *self, const flow_key_t *reply) noexcept nogil:
    """Which of the pool's ports it is; NO_BIT: none."""
    cdef uint32_t port = ntohs(reply.destination_port)
    if port < self.first_port or (port - self.first_port) % self.step != 0:
        return NO_BIT
    cdef uint32_t at = (port - self.first_port) // self.step
    return at if at < self.n_ports else NO_BIT


cdef int nat_ports_claim(
    nat_ports_t *self, const flow_key_t *reply, uint64_t now_ms
) noexcept nogil:
    cdef uint32_t at = _place_of(self, reply)
    if at == NO_BIT:
        return FP_BAD
    cdef nat_pool_t *pool = _pool_of(self, reply, now_ms)
    if pool == NULL:
        return FP_FULL
    if _has(pool.taken, at):
        if not _rests(pool, at):
            return FP_PORTS
        _end_rest(pool, at)
        pool.n_taken -= 1
    _use(pool, at)
    return FP_OK


cdef void nat_ports_give(
    nat_ports_t *self, const flow_key_t *reply, uint64_t silent_ms, bint may_hurry,
    uint64_t now_ms,
) noexcept nogil:
    cdef flow_key_t peer
    cdef uint32_t hash = <uint32_t>_peer_of(self, reply, &peer)
    cdef nat_pool_t *pool = _find(self, &peer, hash)
    cdef uint32_t at = _place_of(self, reply)
    cdef uint64_t span = (now_ms - min(silent_ms, now_ms)) // PORT_SPAN_MS
    fp_assert(pool != NULL and at != NO_BIT)
    if pool == NULL or at == NO_BIT:
        return
    _go_on(self, pool, now_ms)
    pool.n_used -= 1
    if span + PORT_SPANS <= pool.span:
        _clear(pool.taken, at)
        pool.n_taken -= 1
        return
    _set(pool.resting[span % PORT_SPANS], at)
    if may_hurry:
        _set(pool.hurrying, at)
