"""rate_limit: how often a client, or whoever sends a header's value, may ask."""

from libc.stdint cimport uint8_t, uint16_t

from fastpath.address cimport ADDRESS_SIZE, address_put_client
from fastpath.abi cimport fp_static_assert
from fastpath.hashing.siphash cimport siphash24
from fastpath.http.fields cimport field_find
from fastpath.http.http1 cimport REFUSE_RATE, field_t
from fastpath.http.state cimport http_of
from fastpath.http.writing cimport put_number, put_text
from fastpath.memory.lock cimport lock_give, lock_take

cdef enum:
    NS_PER_US = 1000
    NS_PER_S = 1000000000


cdef uint64_t rates_take(rates_t *self, uint64_t key, uint64_t now_ns, uint64_t interval_ns,
                         uint64_t ahead_ns) noexcept nogil:
    cdef rate_bucket_t *bucket = &self.buckets[(key >> 32) & (RATE_BUCKETS - 1)]
    cdef rate_entry_t *entry = &bucket.entries[0]
    cdef uint64_t due
    cdef int i
    fp_static_assert(sizeof(rate_bucket_t) == 128)
    lock_take(&bucket.lock)
    for i in range(RATE_WAYS):
        if bucket.entries[i].key == key:
            entry = &bucket.entries[i]
            break
        if bucket.entries[i].due_ns < entry.due_ns:
            entry = &bucket.entries[i]
    if entry.key != key:
        entry.key = key
        entry.due_ns = 0
    due = max(entry.due_ns, now_ns)
    if due > now_ns + ahead_ns:
        lock_give(&bucket.lock)
        return due - now_ns - ahead_ns
    entry.due_ns = due + interval_ns
    lock_give(&bucket.lock)
    return 0


cdef inline uint64_t hash_of(const loop_t *loop, const uint8_t *data, size_t size) noexcept nogil:
    return siphash24(loop.hash_key[0], loop.hash_key[1], data, size)


cdef uint64_t key_of(loop_t *loop, client_t *client, const rate_t *rate,
                     const route_t *route) noexcept nogil:
    """Who is counted, of this route; never 0."""
    cdef const uint8_t *data = client.request.buffer
    cdef const field_t *field = NULL
    cdef uint8_t ip[ADDRESS_SIZE]
    cdef uint64_t parts[4]
    cdef uint64_t key
    if rate.header.size > 0:
        field = field_find(client.head, data, &rate.header)
    parts[0] = route.born
    parts[1] = route.slot
    parts[2] = field != NULL
    if field != NULL:
        parts[3] = hash_of(loop, data + field.value.at, field.value.size)
    else:
        address_put_client(ip, &client.address)
        parts[3] = hash_of(loop, ip, ADDRESS_SIZE)
    key = hash_of(loop, <const uint8_t *>parts, sizeof(parts))
    return key if key else 1


cdef void rates_tell(reply_t *reply, uint64_t wait_ns) noexcept nogil:
    cdef uint8_t *end = put_text(reply.fields, b"Retry-After: ")
    end += put_number(end, (wait_ns + NS_PER_S - 1) // NS_PER_S)
    end = put_text(end, b"\r\n")
    reply.fields_size = <uint16_t>(end - reply.fields)


cdef int rate_check(loop_t *loop, client_t *client, const rate_t *rate,
                    const route_t *route) noexcept nogil:
    cdef uint64_t wait_ns = rates_take(
        <rates_t *>loop.common.rates, key_of(loop, client, rate, route),
        loop.now_us * NS_PER_US, rate.interval_ns, rate.ahead_ns
    )
    if wait_ns == 0:
        return 0
    rates_tell(&http_of(loop).reply, wait_ns)
    return -REFUSE_RATE
