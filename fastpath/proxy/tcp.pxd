"""TCP services: each accepted connection gets one to a backend, and bytes go both ways."""

from fastpath.loop cimport protocol_t

# Fill in the protocol's functions.
cdef void tcp_protocol(protocol_t *protocol) noexcept nogil
