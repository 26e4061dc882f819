"""Sockets to backends: where they come from, and how long they wait for who is gone."""

from libc.errno cimport errno
from libc.stdint cimport uint64_t

from fastpath.abi cimport (
    FP_BAD, FP_FULL, FP_OK, FP_PORTS, MAX_SOURCES, backend_t, service_t,
)
from fastpath.sys_linux cimport (
    EADDRNOTAVAIL, EAGAIN, EINPROGRESS, IPPROTO_IP, IPPROTO_TCP, IP_BIND_ADDRESS_NO_PORT,
    SOCK_CLOEXEC, SOCK_DGRAM, SOCK_NONBLOCK, SOCK_STREAM, SOL_SOCKET, SO_KEEPALIVE, TCP_KEEPIDLE,
    TCP_NODELAY, TCP_USER_TIMEOUT, bind, close, connect, setsockopt, sockaddr_any_t, socket,
)


cdef enum:                      # as in sockets.py
    PROBE_AFTER_S = 120
    LOST_MS = 300000


cdef int _connect(int fd, const backend_t *backend) noexcept nogil:
    if connect(fd, &backend.address.any, backend.address_size) == 0 or errno == EINPROGRESS:
        return FP_OK
    # EAGAIN is UDP's word for it.
    return FP_PORTS if errno == EADDRNOTAVAIL or errno == EAGAIN else FP_BAD


cdef int _connect_from(
    int fd, const sockaddr_any_t *source, const backend_t *backend
) noexcept nogil:
    cdef int on = 1
    # The port is found by connect, which needs one that is free towards this backend only.
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof(on))
    if bind(fd, &source.any, backend.address_size) != 0:
        return FP_PORTS if errno == EADDRNOTAVAIL else FP_BAD
    return _connect(fd, backend)


cdef int _connect_as(
    int fd, const service_t *service, const backend_t *backend, uint64_t hash
) noexcept nogil:
    """Begin to connect from where the service wants it."""
    cdef const sockaddr_any_t *sources[MAX_SOURCES]
    cdef uint64_t n = 0
    cdef uint64_t i
    cdef int result = FP_PORTS
    for i in range(service.n_sources):
        if service.sources[i].any.sa_family == backend.address.any.sa_family:
            sources[n] = &service.sources[i]
            n += 1
    if n == 0:
        return _connect(fd, backend)
    for i in range(n):
        result = _connect_from(fd, sources[(hash + i) % n], backend)
        if result != FP_PORTS:
            break
    return result


cdef void _make_lasting(int fd) noexcept nogil:
    """What accepted sockets inherit (sockets.py): who has vanished is given up after LOST_MS."""
    cdef int on = 1
    cdef int probe_after_s = PROBE_AFTER_S
    cdef unsigned int lost_ms = LOST_MS
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on))
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on))
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &probe_after_s, sizeof(probe_after_s))
    # With it the number of probes does not matter, and so neither does how often they come.
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &lost_ms, sizeof(lost_ms))


cdef int _open(
    int kind, const service_t *service, const backend_t *backend, uint64_t hash, int *fd
) noexcept nogil:
    cdef int result
    fd[0] = socket(backend.address.any.sa_family, kind | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if fd[0] < 0:
        return FP_FULL
    if kind == SOCK_STREAM:
        _make_lasting(fd[0])
    result = _connect_as(fd[0], service, backend, hash)
    if result != FP_OK:
        close(fd[0])
        fd[0] = -1
    return result


cdef int outgoing_open(
    const service_t *service, const backend_t *backend, uint64_t hash, int *fd
) noexcept nogil:
    return _open(SOCK_STREAM, service, backend, hash, fd)


cdef int outgoing_open_datagrams(
    const service_t *service, const backend_t *backend, uint64_t hash, int *fd
) noexcept nogil:
    return _open(SOCK_DGRAM, service, backend, hash, fd)
