"""What comes with a datagram: who sent it, to which address of ours, and as one of how many.

The address of ours that a client used: RFC 3542, section 6, and ip(7). Several datagrams in one
message: udp(7), UDP_GRO and UDP_SEGMENT. Errors by ICMP: ip(7), IP_RECVERR.
"""

from libc.stdint cimport uint16_t, uint32_t

from fastpath.abi cimport listener_t
from fastpath.sys_linux cimport msghdr, sockaddr_any_t


cdef enum:
    # Of 64 bits: room for either kind of packet information and the size of segments, aligned.
    CONTROL_WORDS = 8


cdef struct parties_t:          # zeroed but for what is set, so that bytes can be compared
    sockaddr_any_t client
    sockaddr_any_t local        # where the client sent to, on a wildcard socket too
    uint32_t interface          # that a link-local `local` of a wildcard socket belongs to, else 0


# Fill in `local` of a message that came to a listener's socket; a wildcard one has IP_PKTINFO or
# IPV6_RECVPKTINFO on. FP_OK, or FP_BAD: it was sent to a group or to everybody.
cdef int datagram_local(
    msghdr *message, const listener_t *listener, parties_t *parties
) noexcept nogil
# Let a message to the client leave from the address that it knows; there must be room for control.
cdef void datagram_put_local(msghdr *message, const parties_t *parties) noexcept nogil

# The size of the datagrams that a message holds, the last may be shorter; 0: it is one. The socket
# has UDP_GRO on.
cdef uint16_t datagram_segment(msghdr *message) noexcept nogil
# Let a message leave as datagrams of that size; there must be room for more control.
cdef void datagram_put_segment(msghdr *message, uint16_t size) noexcept nogil
# Whether this kernel can do that, given any UDP socket.
cdef bint datagram_can_segment(int fd) noexcept nogil

# Have a socket towards a backend report all of that: segments, and what routers say of the way.
cdef void datagram_prepare(int fd, int family) noexcept nogil
# Take what was reported of a connected socket. Whether the peer, or a router, refused a datagram.
cdef bint datagram_refused(int fd) noexcept nogil
# Whether this error of a system call on a connected socket says so; else it is ours, or passes.
cdef bint is_refusal(int error) noexcept nogil
