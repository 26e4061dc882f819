"""UDP services: each client gets a socket to a backend, and datagrams go both ways."""

from fastpath.loop cimport protocol_t

# Fill in the protocol's functions.
cdef void udp_protocol(protocol_t *protocol) noexcept nogil
