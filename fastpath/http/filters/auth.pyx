"""basic_auth: who asks has to say a name and its password."""

from libc.stdint cimport uint16_t, uint64_t
from libc.string cimport memcpy

from fastpath.abi cimport FP_OK
from fastpath.address cimport ADDRESS_SIZE, address_put_client
from fastpath.atomics cimport count, gauge
from fastpath.hashing.siphash cimport siphash24
from fastpath.http.checks cimport (
    CHECK_MS, ask_t, check_t, checks_enter, checks_has, checks_leave, checks_t,
)
from fastpath.http.filters.basic cimport basic_read, basic_t
from fastpath.http.filters.credentials cimport (
    VERDICT_NEVER, VERDICT_NONE, VERDICT_RIGHT, VERDICT_WRONG, credentials_digest,
    credentials_find, credentials_t,
)
from fastpath.http.filters.rates cimport rates_t, rates_take, rates_tell
from fastpath.http.http1 cimport (
    FIELD_OTHER, REFUSE_CHECKS_BUSY, REFUSE_CHECKS_RATE, REFUSE_CREDENTIALS, field_t, is_named,
)
from fastpath.http.state cimport CLIENT_CHECKING, http_of, http_t
from fastpath.http.writing cimport put, put_text
from fastpath.loop cimport loop_watch
from fastpath.memory.ring cimport ring_put
from fastpath.sys_linux cimport EPOLLIN, eventfd_write

cdef enum:
    NS_PER_US = 1000
    NS_PER_S = 1000000000
    CHECKS_AHEAD = 20           # that one client may have at once; later one a second


cdef bint read_credentials(basic_t *basic, const client_t *client) noexcept nogil:
    """What the only Authorization says, if it is of the Basic scheme."""
    cdef const uint8_t *data = client.request.buffer
    cdef const field_t *field
    cdef const field_t *found = NULL
    cdef uint16_t i
    for i in range(client.head.fields_count):
        field = &client.head.fields[i]
        if (field.kind == FIELD_OTHER
                and is_named(data + field.name.at, field.name.size, b"authorization")):
            if found != NULL:
                return False    # a backend might go by the other one
            found = field
    return found != NULL and basic_read(basic, data + found.value.at, found.value.size)


cdef int auth_check(loop_t *loop, client_t *client, const auth_t *auth,
                    const route_t *route) noexcept nogil:
    cdef credentials_t *known = <credentials_t *>loop.common.credentials
    cdef const check_t *check = client.check
    cdef ask_t ask
    cdef basic_t basic
    cdef int verdict
    if not read_credentials(&basic, client):
        return -REFUSE_CREDENTIALS
    credentials_digest(ask.digest, known, auth.users, &basic)
    verdict = credentials_find(known, ask.digest, loop.now_ms)
    if (verdict == VERDICT_NONE and check != NULL and check.digest[0] == ask.digest[0]
            and check.digest[1] == ask.digest[1]):
        verdict = check.verdict
    if verdict == VERDICT_RIGHT:
        return 0
    if verdict == VERDICT_WRONG:
        return -REFUSE_CREDENTIALS
    if verdict == VERDICT_NEVER:
        return -REFUSE_CHECKS_BUSY
    memcpy(ask.users, auth.users, sizeof(ask.users))
    ask.user_size = basic.user_size
    ask.password_size = basic.password_size
    memcpy(ask.text, basic.text, basic.user_size + 1 + basic.password_size)
    return wait(loop, client, &ask, route)


cdef int wait(loop_t *loop, client_t *client, ask_t *ask, const route_t *route) noexcept nogil:
    """Have the credentials checked, unless somebody waits for that already."""
    cdef http_t *http = http_of(loop)
    cdef checks_t *checks = &http.checks
    cdef check_t *check = client.check
    cdef bint is_asked = checks_has(checks, ask.digest)
    cdef int code
    ask.source = source_of(loop, client)
    if check == NULL:
        check = checks_enter(checks, ask.source)
        if check == NULL:
            return -REFUSE_CHECKS_BUSY
        gauge(&http.counters.checking, 1)
        client.check = check
        check.io = &client.io
        check.deadline_ms = loop.now_ms + CHECK_MS
    if not is_asked:
        code = hand_over(loop, ask)
        if code < 0:
            auth_done(loop, client)
            return code
    check.digest[0] = ask.digest[0]
    check.digest[1] = ask.digest[1]
    check.verdict = VERDICT_NONE
    check.route_slot = route.slot
    check.route_born = route.born
    client.state = CLIENT_CHECKING
    client.deadline_ms = check.deadline_ms
    loop_watch(loop, &client.io, EPOLLIN)       # who breaks off makes room
    return FILTER_WAITS


cdef uint64_t source_of(const loop_t *loop, const client_t *client) noexcept nogil:
    """Who is counted as one client; never 0."""
    cdef uint8_t ip[ADDRESS_SIZE]
    address_put_client(ip, &client.address)
    return siphash24(loop.hash_key[0], loop.hash_key[1], ip, ADDRESS_SIZE) | 1


cdef int hand_over(loop_t *loop, ask_t *ask) noexcept nogil:
    """To Python: 0, or why it cannot be."""
    cdef http_t *http = http_of(loop)
    # rate_limit's table has room for this, too; none of its keys is made in this way.
    cdef uint64_t wait_ns = rates_take(
        <rates_t *>loop.common.rates, ask.source, loop.now_us * NS_PER_US,
        NS_PER_S, <uint64_t>NS_PER_S * (CHECKS_AHEAD - 1)
    )
    if wait_ns > 0:
        rates_tell(&http.reply, wait_ns)
        return -REFUSE_CHECKS_RATE
    ask.asked_us = loop.now_us
    if ring_put(&http.checks.asks, ask) != FP_OK:
        return -REFUSE_CHECKS_BUSY
    count(&http.counters.checks, 1)
    eventfd_write(loop.common.checks_wake, 1)
    return 0


cdef bint auth_heard(const client_t *client) noexcept nogil:
    return client.check != NULL and client.check.verdict != VERDICT_NONE


cdef uint8_t *auth_put(uint8_t *out, const auth_t *auth, refusal_t why) noexcept nogil:
    if why == REFUSE_CREDENTIALS:
        return put(out, auth.challenge.data, auth.challenge.size)
    if why == REFUSE_CHECKS_BUSY:
        return put_text(out, b"Retry-After: 5\r\n")
    return out


cdef void auth_done(loop_t *loop, client_t *client) noexcept nogil:
    cdef http_t *http = http_of(loop)
    if client.check != NULL:
        gauge(&http.counters.checking, -1)
        checks_leave(&http.checks, client.check)
        client.check = NULL
