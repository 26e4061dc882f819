"""TCP services: each accepted connection gets one to a backend, and bytes go both ways."""

from libc.stdint cimport uint32_t

from fastpath.loop cimport loop_t, protocol_t

# Fill in the protocol's functions.
cdef void tcp_protocol(protocol_t *protocol) noexcept nogil

# Relay between two connected sockets (non-blocking, TCP_NODELAY set) that come from elsewhere; they
# count for RELAYS_BACKEND. FP_OK: both are the protocol's, and it calls loop_client_closed with
# RELAYS_LISTENER once when it has closed them. FP_FULL: as many streams as there may be.
cdef int tcp_relay(
    loop_t *loop, int client, int backend, uint32_t idle_timeout_ms
) noexcept nogil
