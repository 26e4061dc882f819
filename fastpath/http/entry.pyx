"""What a gateway lets in and whom it believes."""

from libc.stdint cimport uint16_t, uint64_t
from libc.string cimport memset

from fastpath.abi cimport FP_OK, REJECT_CLIENT, REJECT_SERVICE
from fastpath.http.filters.admission cimport admission_body
from fastpath.http.forwarded cimport forwarded_source
from fastpath.http.http1 cimport (
    FIELD_OTHER, FIELD_UNDERSCORE, REFUSE_FIELD, REFUSE_HEAD_SIZE, REFUSE_TARGET_SIZE, field_kind,
    field_t,
)
from fastpath.http.options cimport UNDERSCORES_DROP, UNDERSCORES_REJECT
from fastpath.proxy.balance cimport client_hash
from fastpath.proxy.clients cimport clients_enter, clients_leave, clients_t
from fastpath.proxy.prefixes cimport prefixes_have
from fastpath.sys_linux cimport AF_INET6, sockaddr_any_t

cdef enum:
    ALIAS_SIZE_MAX = 64         # longer names mean something by their beginning only


# ---- connections ----

cdef int entry_connection(loop_t *loop, client_t *client, const gateway_t *gateway) noexcept nogil:
    cdef const options_t *options = <const options_t *>gateway.options
    cdef clients_t *clients = <clients_t *>loop.common.known_clients
    # No service's key is as high. All clients together are counted as one that nobody is: `::`.
    cdef uint64_t key = <uint64_t>1 << 63 | gateway.slot
    cdef sockaddr_any_t everybody
    if options == NULL:
        return FP_OK
    if options.connections_max > 0:
        memset(&everybody, 0, sizeof(everybody))
        everybody.v6.sin6_family = AF_INET6
        if clients_enter(clients, key, &everybody, options.connections_max,
                         &client.counted_in_all) != FP_OK:
            return -1 - REJECT_SERVICE
    if options.connections_per_source > 0:
        if clients_enter(clients, key, &client.remote, options.connections_per_source,
                         &client.counted) != FP_OK:
            entry_leave(loop, client)
            return -1 - REJECT_CLIENT
    return FP_OK


cdef void entry_leave(loop_t *loop, client_t *client) noexcept nogil:
    cdef clients_t *clients = <clients_t *>loop.common.known_clients
    if client.counted != NULL:
        clients_leave(clients, client.counted)
        client.counted = NULL
    if client.counted_in_all != NULL:
        clients_leave(clients, client.counted_in_all)
        client.counted_in_all = NULL


# ---- heads ----

cdef int entry_head(const options_t *options, head_t *head, const uint8_t *data) noexcept nogil:
    cdef uint16_t i
    if options == NULL:
        return 0
    if head.target.size > options.target_size_max:
        return -REFUSE_TARGET_SIZE
    if head.pos > options.head_size_max or head.fields_count > options.fields_max:
        return -REFUSE_HEAD_SIZE
    if options.underscores == UNDERSCORES_DROP:
        return 0
    for i in range(head.fields_count):
        if head.fields[i].kind == FIELD_UNDERSCORE:
            if options.underscores == UNDERSCORES_REJECT:
                return -REFUSE_FIELD
            if not is_alias(&head.fields[i], data):
                head.fields[i].kind = FIELD_OTHER
    return 0


cdef bint is_alias(const field_t *field, const uint8_t *data) noexcept nogil:
    """Whether with dashes it would be a field that has a meaning to us."""
    cdef uint8_t name[ALIAS_SIZE_MAX]
    cdef uint16_t size = min(field.name.size, <uint16_t>ALIAS_SIZE_MAX)
    cdef uint16_t i
    for i in range(size):
        name[i] = data[field.name.at + i]
        if name[i] == c"_":
            name[i] = c"-"
    return field_kind(name, size) != FIELD_OTHER


# ---- requests ----

cdef int entry_request(loop_t *loop, client_t *client, request_t *request,
                       const options_t *options) noexcept nogil:
    cdef bint was_told = client.is_told
    client.is_told = False
    if options != NULL and prefixes_have(&options.trusted, &client.remote):
        request.is_trusted = True
        client.is_told = forwarded_source(client.head, client.request.buffer, &options.trusted,
                                          &client.address)
    if was_told and not client.is_told:
        client.address = client.remote
    if was_told or client.is_told:
        client.origin = client_hash(loop.hash_key, &client.address)
    if options != NULL and options.body_size_max > 0:
        return admission_body(&request.body, options.body_size_max)
    return 0
