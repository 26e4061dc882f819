"""Whether and when a request is tried once more, nothing of a response having been sent.

A budget keeps retries from making an overload worse: of the requests that a worker has under way a
fifth at most are not in their first try, or RETRIES_MIN, so that a quiet gateway can retry at all.
"""

from libc.stdint cimport uint32_t, uint64_t

from fastpath.abi cimport RETRY_STATUS_MIN, retries_t, route_t
from fastpath.atomics cimport count
from fastpath.hashing.bits cimport draw64
from fastpath.http.flow cimport flow_clear
from fastpath.http.http1 cimport METHOD_DELETE, METHOD_GET, METHOD_HEAD, METHOD_OPTIONS, METHOD_PUT
from fastpath.http.pool cimport pool_close
from fastpath.http.state cimport CLIENT_BACKOFF, http_of, http_t, route_of
from fastpath.loop cimport loop_watch
from fastpath.memory.slab cimport slab_put
from fastpath.sys_linux cimport EPOLLIN

cdef enum:
    RETRIES_MIN = 3
    BUDGET = 5                  # one of so many
    DOUBLINGS_MAX = 5
    BACKOFF_MAX_MS = 10000      # but for one that is longer from the start


cdef bint is_repeatable(const client_t *client) noexcept nogil:
    return not client.has_body and client.method in (
        METHOD_GET, METHOD_HEAD, METHOD_OPTIONS, METHOD_PUT, METHOD_DELETE
    )


cdef bint is_asked_for(const retries_t *retries, uint8_t why, uint16_t status) noexcept nogil:
    cdef uint32_t bit
    if why != 0:
        return retries.on & why != 0
    if status < RETRY_STATUS_MIN:
        return False
    bit = status - <uint32_t>RETRY_STATUS_MIN
    return bit < 256 and retries.statuses[bit >> 6] >> (bit & 63) & 1


cdef bint retry_may(loop_t *loop, client_t *client, uint8_t why, uint16_t status) noexcept nogil:
    cdef http_t *http = http_of(loop)
    cdef const route_t *route = route_of(loop, client)
    if route == NULL or client.n_retries >= route.retries.attempts:
        return False
    if not is_asked_for(&route.retries, why, status) or client.n_interim > 0:
        return False
    if client.was_sent and not client.keeps_request:
        return False
    if client.is_retrying or http.n_retrying < max(
        <uint32_t>RETRIES_MIN, http.n_active // <uint32_t>BUDGET
    ):
        return True
    count(&http.counters.retries[client.route_slot].denied, 1)
    return False


cdef uint64_t backoff_ms(loop_t *loop, const client_t *client, uint32_t first_ms) noexcept nogil:
    """From half of the time to all of it, so that what failed together does not come together."""
    cdef uint64_t whole = <uint64_t>first_ms << min(client.n_retries - 1, DOUBLINGS_MAX)
    cdef uint64_t half = min(whole, max(<uint64_t>first_ms, <uint64_t>BACKOFF_MAX_MS)) // 2
    return half + (half * (draw64(client.hash, loop.now_us + client.n_retries) >> 32) >> 32)


cdef void retry_begin(loop_t *loop, client_t *client) noexcept nogil:
    cdef http_t *http = http_of(loop)
    cdef const route_t *route = loop.snapshot.route_of_slot[client.route_slot]
    if client.upstream != NULL:
        pool_close(loop, client.upstream)
    if client.head != NULL:
        slab_put(&http.stores.heads, client.head)
        client.head = NULL
    flow_clear(loop, &http.stores, &client.response)
    client.request.head_start = 0
    client.n_retries += 1
    http.n_retrying += not client.is_retrying
    client.is_retrying = True
    count(&http.counters.retries[client.route_slot].begun, 1)
    client.state = CLIENT_BACKOFF
    loop_watch(loop, &client.io, EPOLLIN)       # a client that breaks off need not be waited for
    client.deadline_ms = loop.now_ms + backoff_ms(loop, client, route.retries.backoff_ms)
