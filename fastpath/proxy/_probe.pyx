"""Python's way into sessions and headers, for the tests; built with PIAGENT_PROBE=1 only."""

from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memcpy, memset
from posix.mman cimport (
    MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_NONE, PROT_READ, PROT_WRITE, mmap, mprotect,
)

from fastpath.proxy.datagram cimport parties_t
from fastpath.proxy.proxy_header cimport (
    PROXY_V1_SIZE_MAX, PROXY_V2_SIZE_MAX as _PROXY_V2_SIZE_MAX, proxy_header_read, proxy_header_t,
    proxy_header_write,
)
from fastpath.proxy.sessions cimport (
    AGE_REPLIED, REPLIED_MS as _REPLIED_MS, SESSIONS_MAX as _SESSIONS_MAX,
    UNREPLIED_MS as _UNREPLIED_MS, session_t, sessions_add, sessions_expired, sessions_find,
    sessions_free, sessions_init, sessions_oldest, sessions_patience, sessions_remove, sessions_t,
    sessions_touch,
)
from fastpath.sys_linux cimport AF_INET, AF_INET6, htons, ntohs, sockaddr_any_t

import socket

PROXY_V2_SIZE_MAX = _PROXY_V2_SIZE_MAX
SESSIONS_MAX = _SESSIONS_MAX
UNREPLIED_MS = _UNREPLIED_MS
REPLIED_MS = _REPLIED_MS


cdef class Sessions:
    """Sessions without sockets, that are told by their client's port."""

    cdef sessions_t sessions

    def __cinit__(self):
        if sessions_init(&self.sessions) != 0:
            raise MemoryError

    def __dealloc__(self):
        while self.sessions.n > 0:
            sessions_remove(&self.sessions, sessions_oldest(&self.sessions))
        sessions_free(&self.sessions)

    cdef session_t *_find(self, port, hash, listener):
        cdef parties_t parties = _parties(port)
        return sessions_find(&self.sessions, hash, listener, &parties)

    def has(self, port, hash, listener):
        return self._find(port, hash, listener) != NULL

    def add(self, port, hash, listener, now_ms):
        cdef parties_t parties = _parties(port)
        sessions_add(&self.sessions, hash, listener, &parties, now_ms)

    def touch(self, port, hash, listener, replied, now_ms):
        cdef session_t *session = self._find(port, hash, listener)
        sessions_touch(&self.sessions, session, AGE_REPLIED if replied else session.age, now_ms)

    def remove(self, port, hash, listener):
        sessions_remove(&self.sessions, self._find(port, hash, listener))

    def oldest(self):
        return _named(sessions_oldest(&self.sessions))

    def expired(self, now_ms):
        return _named(sessions_expired(&self.sessions, now_ms))

    def patience(self, now_ms):
        return sessions_patience(&self.sessions, now_ms)

    @property
    def n(self):
        return self.sessions.n


cdef parties_t _parties(port):
    cdef parties_t parties
    memset(&parties, 0, sizeof(parties))
    parties.client.v4.sin_family = AF_INET
    parties.client.v4.sin_port = htons(port)
    return parties


cdef object _named(const session_t *session):
    """(port, hash, listener), or None."""
    if session == NULL:
        return None
    return ntohs(session.parties.client.v4.sin_port), session.hash, session.listener_slot


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
