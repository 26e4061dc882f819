"""The HTTP/1.1 gateway as a protocol of a worker: client connections from accept to close."""

from fastpath.loop cimport protocol_t

# Fills in the protocol's functions.
cdef void http_protocol(protocol_t *protocol) noexcept nogil
