"""Python's way into what the proxy keeps, for the tests; built with PIAGENT_PROBE=1 only."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.mman cimport (
    MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_NONE, PROT_READ, PROT_WRITE, mmap, mprotect,
)

from fastpath.abi cimport (
    FP_OK, REJECT_CLIENT, REJECT_SERVICE, REJECT_SOURCE, common_t, prefixes_t, range_t,
    service_t,
)
from fastpath.atomics cimport load_signed
from fastpath.loop cimport loop_t
from fastpath.rate cimport RATE_AHEAD_MS as _RATE_AHEAD_MS, rate_wait_ms
from fastpath.proxy.admission cimport admission_enter, admission_leave, admitted_t
from fastpath.proxy.clients cimport (
    clients_enter, clients_free, clients_init, clients_leave, clients_recall, clients_remember,
    clients_t, known_client_t,
)
from fastpath.proxy.prefixes cimport prefixes_have
from fastpath.proxy.proxy_header cimport (
    PROXY_V1_SIZE_MAX, PROXY_V2_SIZE_MAX as _PROXY_V2_SIZE_MAX, proxy_header_read, proxy_header_t,
    proxy_header_write,
)
from fastpath.proxy.sni cimport SNI_SIZE_MAX as _SNI_SIZE_MAX, sni_peek, sni_t
from fastpath.sys_linux cimport AF_INET, AF_INET6, htons, ntohs, sockaddr_any_t

import socket

PROXY_V2_SIZE_MAX = _PROXY_V2_SIZE_MAX
SNI_SIZE_MAX = _SNI_SIZE_MAX
RATE_AHEAD_MS = _RATE_AHEAD_MS


cdef enum:
    EDGE_SIZE = 1 << 17         # longer than all that is read

cdef uint8_t *_edge = NULL


cdef const uint8_t *_at_the_edge(bytes data) except NULL:
    """A copy right before memory that nobody may read, good until the next one."""
    global _edge
    cdef size_t size = len(data)
    if size > EDGE_SIZE:
        raise ValueError(f"{size} bytes, {EDGE_SIZE} at most")
    if _edge == NULL:
        _edge = <uint8_t *>mmap(NULL, 2 * EDGE_SIZE, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if <void *>_edge == MAP_FAILED or mprotect(_edge + EDGE_SIZE, EDGE_SIZE, PROT_NONE) != 0:
            raise MemoryError
    memcpy(_edge + EDGE_SIZE - size, <const uint8_t *>data, size)
    return _edge + EDGE_SIZE - size


cdef object _address(const sockaddr_any_t *address):
    """(text, port); no other byte may be set."""
    cdef sockaddr_any_t same
    if address.any.sa_family == AF_INET:
        packed = (<const uint8_t *>&address.v4.sin_addr)[:4]
        port = ntohs(address.v4.sin_port)
    else:
        packed = (<const uint8_t *>&address.v6.sin6_addr)[:16]
        port = ntohs(address.v6.sin6_port)
    text = socket.inet_ntop(address.any.sa_family, packed)
    _put_address(&same, (text, port))
    if (<const uint8_t *>&same)[:sizeof(same)] != (<const uint8_t *>address)[:sizeof(same)]:
        raise AssertionError(f"more than {text} and {port} is set")
    return text, port


cdef object _put_address(sockaddr_any_t *address, tuple place):
    text, port = place
    cdef bytes packed = socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    memset(address, 0, sizeof(sockaddr_any_t))
    if len(packed) == 4:
        address.v4.sin_family = AF_INET
        address.v4.sin_port = htons(<uint16_t>port)
        memcpy(&address.v4.sin_addr, <const uint8_t *>packed, 4)
    else:
        address.v6.sin6_family = AF_INET6
        address.v6.sin6_port = htons(<uint16_t>port)
        memcpy(&address.v6.sin6_addr, <const uint8_t *>packed, 16)


def read_proxy_header(bytes data):
    """(size, version, source, destination), the last two None when local; or (negative code,)."""
    cdef proxy_header_t header
    cdef int size = proxy_header_read(_at_the_edge(data), len(data), &header)
    if size <= 0:
        return (size,)
    if header.local:
        return size, header.version, None, None
    return size, header.version, _address(&header.source), _address(&header.destination)


def write_proxy_header(version, source, destination):
    """The header for two (text, port) or None."""
    cdef uint8_t data[PROXY_V1_SIZE_MAX + 1]
    cdef sockaddr_any_t addresses[2]
    if source is not None:
        _put_address(&addresses[0], source)
    if destination is not None:
        _put_address(&addresses[1], destination)
    data[PROXY_V1_SIZE_MAX] = 0xa5
    size = proxy_header_write(data, version, NULL if source is None else &addresses[0],
                              NULL if destination is None else &addresses[1])
    if data[PROXY_V1_SIZE_MAX] != 0xa5:
        raise AssertionError("more than there is room for was written")
    return bytes(data[:size])


cdef class Prefixes:
    """A set of addresses, of ranges that are disjoint and ascending."""

    cdef prefixes_t prefixes

    def __cinit__(self, list ranges):
        cdef range_t *each = <range_t *>calloc(len(ranges) or 1, sizeof(range_t))
        if each == NULL:
            raise MemoryError
        self.prefixes.ranges = each
        self.prefixes.n = len(ranges)
        for first, last in ranges:
            each.first_high, each.first_low = divmod(first, 1 << 64)
            each.last_high, each.last_low = divmod(last, 1 << 64)
            each += 1

    def __dealloc__(self):
        free(<void *>self.prefixes.ranges)

    def __contains__(self, text):
        cdef sockaddr_any_t address
        _put_address(&address, (text, 7))
        return prefixes_have(&self.prefixes, &address)


def peek_sni(bytes data):
    """(code, name, ALPN list), or (negative code,)."""
    cdef sni_t sni
    cdef int code
    memset(&sni, 0xa5, sizeof(sni))
    code = sni_peek(_at_the_edge(data), len(data), &sni)
    if code < 0:
        return (code,)
    return code, bytes(sni.name[:sni.name_size]), bytes(sni.alpn[:sni.alpn_size])


cdef class Clients:
    """A table of clients; what counts one is told by its number."""

    cdef clients_t clients
    cdef dict counted           # number -> pointer
    cdef int n_numbers

    def __cinit__(self, capacity):
        cdef uint64_t key[2]
        key[0], key[1] = 1, 2
        self.counted = {}
        if clients_init(&self.clients, capacity, key) != FP_OK:
            raise MemoryError

    def __dealloc__(self):
        clients_free(&self.clients)

    def enter(self, service, client, limit):
        """A number for `leave`, or None: too many."""
        cdef sockaddr_any_t address
        _put_address(&address, (client, 0))
        cdef known_client_t *counted = NULL
        if clients_enter(&self.clients, service, &address, limit, &counted) != FP_OK:
            assert counted == NULL
            return None
        self.n_numbers += 1
        self.counted[self.n_numbers] = <uint64_t>counted
        return self.n_numbers

    def leave(self, number):
        clients_leave(&self.clients, <known_client_t *><uint64_t>self.counted.pop(number))

    def remember(self, service, client, backend, now_ms):
        cdef sockaddr_any_t address
        _put_address(&address, (client, 0))
        clients_remember(&self.clients, service, &address, backend, now_ms)

    def recall(self, service, client, timeout_ms, now_ms):
        """The backend, or None."""
        cdef sockaddr_any_t address
        _put_address(&address, (client, 0))
        cdef uint64_t backend = 0
        if clients_recall(
            &self.clients, service, &address, timeout_ms, now_ms, &backend
        ) != FP_OK:
            return None
        return backend

    @property
    def n(self):
        return self.clients.slab.n_used

    def churn(self, steps, n_clients, limit, seed):
        """Enter, leave and remember at random, without the interpreter; leave all in the end.

        Returns how often it entered and how often there were too many. Several threads may do it.
        """
        cdef churn_t churn
        memset(&churn, 0, sizeof(churn))
        churn.clients = &self.clients
        churn.random = seed * 2 + 1
        churn.n_clients = n_clients
        churn.limit = limit
        churn.steps = steps
        with nogil:
            _churn(&churn)
        return churn.n_entered, churn.n_refused


cdef struct churn_t:
    clients_t *clients
    known_client_t *held[64]
    uint64_t random
    uint64_t steps
    uint64_t n_entered
    uint64_t n_refused
    uint32_t n_clients
    uint32_t limit


cdef uint64_t _next(churn_t *self) noexcept nogil:
    """Marsaglia's xorshift."""
    self.random ^= self.random << 13
    self.random ^= self.random >> 7
    self.random ^= self.random << 17
    return self.random >> 8


cdef void _churn(churn_t *self) noexcept nogil:
    cdef sockaddr_any_t client
    cdef known_client_t **place
    cdef uint64_t step
    memset(&client, 0, sizeof(client))
    client.v4.sin_family = AF_INET
    for step in range(self.steps + 64):
        place = &self.held[step % 64 if step >= self.steps else _next(self) % 64]
        if place[0] != NULL:
            clients_leave(self.clients, place[0])
            place[0] = NULL
        elif step < self.steps:
            client.v4.sin_addr.s_addr = <uint32_t>(_next(self) % self.n_clients)
            if clients_enter(self.clients, 1, &client, self.limit, place) == FP_OK:
                self.n_entered += 1
            else:
                self.n_refused += 1
            clients_remember(self.clients, 1, &client, step, step)


cdef class Admission:
    """What one worker does at the begin and the end of connections, with tables by hand."""

    cdef loop_t *loop
    cdef service_t service
    cdef range_t allowed
    cdef clients_t clients
    cdef dict admitted          # number -> what it must give back, as bytes
    cdef int n_numbers

    def __cinit__(self, slot):
        cdef uint64_t key[2]
        key[0], key[1] = 1, 2
        self.admitted = {}
        self.loop = <loop_t *>calloc(1, sizeof(loop_t))
        self.loop.common = <common_t *>calloc(1, sizeof(common_t))
        clients_init(&self.clients, 1024, key)
        self.loop.common.known_clients = &self.clients
        self.service.slot = slot

    def __dealloc__(self):
        clients_free(&self.clients)
        free(self.loop.common)
        free(self.loop)

    def limit(self, *, in_all=0, per_client=0, allowed=None):
        """What a reload says; `allowed`: first and last address."""
        self.service.connections_max = in_all
        self.service.connections_per_source = per_client
        self.service.allowed.n = 0
        if allowed is not None:
            self.allowed.first_high, self.allowed.first_low = divmod(allowed[0], 1 << 64)
            self.allowed.last_high, self.allowed.last_low = divmod(allowed[1], 1 << 64)
            self.service.allowed.ranges = &self.allowed
            self.service.allowed.n = 1

    def enter(self, client):
        """A number for `leave`, or why not."""
        cdef sockaddr_any_t address
        _put_address(&address, (client, 0))
        cdef admitted_t admitted
        cdef int result = admission_enter(self.loop, &self.service, &address, &admitted)
        if result != FP_OK:
            assert admitted.client == NULL and not admitted.counted
            return _WHY[result]
        self.n_numbers += 1
        self.admitted[self.n_numbers] = (<const char *>&admitted)[:sizeof(admitted)]
        return self.n_numbers

    def leave(self, number):
        cdef bytes kept = self.admitted.pop(number)
        cdef admitted_t admitted
        memcpy(&admitted, <const char *>kept, sizeof(admitted))
        admission_leave(self.loop, &admitted)
        admission_leave(self.loop, &admitted)       # holds nothing now

    @property
    def n_open(self):
        return load_signed(&self.loop.common.service_open[self.service.slot])

    @property
    def n_clients(self):
        return self.clients.slab.n_used


_WHY = {
    -1 - REJECT_SOURCE: "source", -1 - REJECT_SERVICE: "service", -1 - REJECT_CLIENT: "client",
}


cdef class Rate:
    """What several workers share to keep to one rate."""

    cdef uint64_t due_ns

    def wait_ms(self, now_ns, rate):
        return rate_wait_ms(&self.due_ns, now_ns, rate)

    def take_all(self, now_ns, rate):
        """How many may begin at that moment; several threads may ask."""
        cdef uint64_t n = 0, now = now_ns
        cdef uint32_t per_s = rate
        with nogil:
            while rate_wait_ms(&self.due_ns, now, per_s) == 0:
                n += 1
        return n
