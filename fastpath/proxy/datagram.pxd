"""One datagram in, one out, with the address of ours that the client used (RFC 3542, section 6)."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from fastpath.sys_linux cimport sockaddr_any_t


cdef struct parties_t:          # zeroed but for what is set, so that bytes can be compared
    sockaddr_any_t client
    sockaddr_any_t local        # where the client sent to, on a wildcard socket too
    uint32_t interface          # that a link-local `local` belongs to, else 0


# Take a datagram from a listener's socket, which has IP_PKTINFO or IPV6_RECVPKTINFO on; `port` is
# the listener's. >= 0 the datagram's size; FP_AGAIN: there is none; FP_FULL: it was longer than
# `size`, and is lost; FP_BAD: it was sent to a group or to everybody; FP_RESET: another error.
cdef ssize_t datagram_receive(
    int fd, uint8_t *data, size_t size, uint16_t port, parties_t *parties
) noexcept nogil

# Send a datagram to the client from the address that it knows. FP_OK or FP_BAD: not sent.
cdef int datagram_send(
    int fd, const uint8_t *data, size_t size, const parties_t *parties
) noexcept nogil
