"""Sockets to backends: opened, kept alive between requests, closed."""

from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset

from fastpath.abi cimport FP_FULL, FP_OK, backend_t, service_t
from fastpath.http.state cimport client_t, http_of, http_t, upstream_t
from fastpath.loop cimport (
    FAILED, LOOP_BATCH, PEER_ENDED, READABLE, backend_closed, backend_parked, backend_taken,
    loop_arm, loop_close, loop_connect, loop_t,
)
from fastpath.memory.slab cimport slab_get, slab_put
from fastpath.memory.wheel cimport timeout_armed, timeout_disarm, timeout_t
from fastpath.sys_linux cimport EAGAIN, MSG_PEEK, recv


cdef void unlink(http_t *http, upstream_t *upstream) noexcept nogil:
    """Take an idle socket out of both lists."""
    if upstream.next != NULL:
        upstream.next.previous = upstream.previous
    if upstream.previous != NULL:
        upstream.previous.next = upstream.next
    else:
        http.idle[upstream.slot] = upstream.next
    if upstream.newer != NULL:
        upstream.newer.older = upstream.older
    else:
        http.newest = upstream.older
    if upstream.older != NULL:
        upstream.older.newer = upstream.newer
    else:
        http.oldest = upstream.newer
    http.n_idle[upstream.slot] -= 1
    http.n_idle_all -= 1


cdef void link(http_t *http, upstream_t *upstream) noexcept nogil:
    upstream.previous = NULL
    upstream.next = http.idle[upstream.slot]
    if upstream.next != NULL:
        upstream.next.previous = upstream
    http.idle[upstream.slot] = upstream
    upstream.newer = NULL
    upstream.older = http.newest
    if upstream.older != NULL:
        upstream.older.newer = upstream
    else:
        http.oldest = upstream
    http.newest = upstream
    http.n_idle[upstream.slot] += 1
    http.n_idle_all += 1


cdef bint is_quiet(const upstream_t *upstream) noexcept nogil:
    """Whether nothing has arrived, not even the end."""
    cdef uint8_t byte = 0
    return recv(upstream.io.fd, &byte, 1, MSG_PEEK) < 0 and errno == EAGAIN


cdef bint is_told_of(const loop_t *loop, const upstream_t *upstream) noexcept nogil:
    """Whether `ready` says all that epoll knew of it when the turn began."""
    cdef uint32_t i
    if upstream.idle_since_turn == loop.counters.turns:
        return False
    if max(loop.event_index, loop.n_events) >= <uint32_t>LOOP_BATCH:
        return False            # there may be more events
    for i in range(loop.event_index, loop.n_events):
        if loop.events[i].data.ptr == <const void *>&upstream.io:
            return False        # not handled yet
    return True


cdef upstream_t *pool_take(loop_t *loop, const backend_t *backend, client_t *client,
                           bint ask_kernel) noexcept nogil:
    cdef http_t *http = http_of(loop)
    cdef upstream_t *upstream
    while True:
        upstream = http.idle[backend.slot]
        if upstream == NULL:
            return NULL
        if (upstream.io.ready & (READABLE | PEER_ENDED | FAILED)
                or ((ask_kernel or not is_told_of(loop, upstream)) and not is_quiet(upstream))):
            pool_close(loop, upstream)
            continue
        unlink(http, upstream)
        upstream.client = client
        client.upstream = upstream
        backend_taken(loop, upstream.slot)
        return upstream


cdef int pool_connect(loop_t *loop, const service_t *service, const backend_t *backend,
                      client_t *client) noexcept nogil:
    cdef http_t *http = http_of(loop)
    cdef upstream_t *upstream = <upstream_t *>slab_get(&http.upstreams_memory)
    cdef int result
    if upstream == NULL and http.oldest != NULL:
        pool_close(loop, http.oldest)
        upstream = <upstream_t *>slab_get(&http.upstreams_memory)
    if upstream == NULL:
        return FP_FULL
    memset(upstream, 0, sizeof(upstream_t))
    result = loop_connect(loop, &upstream.io, service, backend, client.hash,
                          http.on_upstream, upstream)
    if result == FP_FULL and http.oldest != NULL:
        pool_close(loop, http.oldest)
        result = loop_connect(loop, &upstream.io, service, backend, client.hash,
                              http.on_upstream, upstream)
    if result != FP_OK:
        slab_put(&http.upstreams_memory, upstream)
        return result
    upstream.client = client
    upstream.slot = backend.slot
    upstream.address = backend.address
    client.upstream = upstream
    return FP_OK


cdef bint is_wanted(loop_t *loop, const upstream_t *upstream) noexcept nogil:
    """Whether the backend of now with that slot is the same one, and up."""
    cdef const backend_t *backend = loop.snapshot.backend_of_slot[upstream.slot]
    return (backend != NULL and backend.usable
            and memcmp(&backend.address, &upstream.address, backend.address_size) == 0)


cdef void pool_park(loop_t *loop, upstream_t *upstream) noexcept nogil:
    cdef http_t *http = http_of(loop)
    if (upstream.is_told or loop.snapshot.draining
            or upstream.io.ready & (READABLE | PEER_ENDED | FAILED)
            or http.n_idle[upstream.slot] >= POOL_IDLE_MAX or not is_wanted(loop, upstream)):
        pool_close(loop, upstream)
        return
    upstream.client.upstream = NULL
    upstream.client = NULL
    upstream.idle_since_ms = loop.now_ms
    upstream.idle_since_turn = loop.counters.turns
    link(http, upstream)
    backend_parked(loop, upstream.slot)
    pool_limit(loop)
    if not timeout_armed(&http.sweep):
        loop_arm(loop, &http.sweep, on_sweep, POOL_IDLE_MS)


cdef void pool_limit(loop_t *loop) noexcept nogil:
    cdef http_t *http = http_of(loop)
    cdef uint64_t needed = 2 * <uint64_t>loop.counters.clients + http.copies.n_used
    while http.oldest != NULL and needed + http.n_idle_all > loop.snapshot.sockets_max:
        pool_close(loop, http.oldest)


cdef void pool_close(loop_t *loop, upstream_t *upstream) noexcept nogil:
    cdef http_t *http = http_of(loop)
    if upstream.client == NULL:
        unlink(http, upstream)
    else:
        upstream.client.upstream = NULL
    loop_close(loop, &upstream.io)
    backend_closed(loop, upstream.slot, upstream.client != NULL)
    slab_put(&http.upstreams_memory, upstream)


cdef void pool_review(loop_t *loop, bint everything) noexcept nogil:
    cdef http_t *http = http_of(loop)
    cdef upstream_t *upstream = http.oldest
    cdef upstream_t *newer
    while upstream != NULL:
        newer = upstream.newer
        if everything or not is_wanted(loop, upstream):
            pool_close(loop, upstream)
        upstream = newer
    if http.oldest == NULL:
        timeout_disarm(&http.sweep)


cdef void on_sweep(loop_t *loop, timeout_t *timeout) noexcept nogil:
    """Close what has been idle for too long, and come back when the next is due."""
    cdef http_t *http = http_of(loop)
    while http.oldest != NULL and http.oldest.idle_since_ms + POOL_IDLE_MS <= loop.now_ms:
        pool_close(loop, http.oldest)
    if http.oldest != NULL:
        loop_arm(loop, &http.sweep, on_sweep,
                 <uint32_t>(http.oldest.idle_since_ms + POOL_IDLE_MS - loop.now_ms))
