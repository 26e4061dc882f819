"""What comes with a datagram: who sent it, to which address of ours, and as one of how many."""

from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.string cimport memcpy, memset

from fastpath.abi cimport FP_BAD, FP_OK
from fastpath.sys_linux cimport (
    AF_INET, AF_INET6, CMSG_DATA, CMSG_FIRSTHDR, CMSG_LEN, CMSG_NXTHDR, CMSG_SPACE, EAGAIN, EINTR,
    EMSGSIZE, ENOBUFS, ENOMEM, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_UDP, IPV6_PKTINFO, IPV6_RECVERR,
    IP_PKTINFO, IP_RECVERR, MSG_ERRQUEUE, SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6, UDP_GRO,
    UDP_SEGMENT, cmsghdr, in6_pktinfo, in_pktinfo, iovec, msghdr, recvmsg, setsockopt,
    sock_extended_err,
)


cdef enum:
    ERROR_WORDS = 32            # control of a reported error: it, and the address of who says so
    ERRORS_MAX = 64             # taken at a time


# ---- the address of ours ----

cdef int _read_v4(const cmsghdr *header, parties_t *parties) noexcept nogil:
    cdef in_pktinfo info
    memcpy(&info, CMSG_DATA(<cmsghdr *>header), sizeof(info))
    # They differ when it came by broadcast or multicast.
    if info.ipi_addr.s_addr != info.ipi_spec_dst.s_addr:
        return FP_BAD
    parties.local.v4.sin_addr = info.ipi_spec_dst
    return FP_OK


cdef int _read_v6(const cmsghdr *header, parties_t *parties) noexcept nogil:
    cdef in6_pktinfo info
    memcpy(&info, CMSG_DATA(<cmsghdr *>header), sizeof(info))
    if info.ipi6_addr.s6_addr[0] == 0xff:                       # multicast
        return FP_BAD
    parties.local.v6.sin6_addr = info.ipi6_addr
    if info.ipi6_addr.s6_addr[0] == 0xfe and info.ipi6_addr.s6_addr[1] & 0xc0 == 0x80:
        parties.interface = info.ipi6_ifindex
    return FP_OK


cdef int datagram_local(
    msghdr *message, const listener_t *listener, parties_t *parties
) noexcept nogil:
    cdef cmsghdr *header = CMSG_FIRSTHDR(message)
    parties.local = listener.address
    if not listener.wildcard:
        return FP_OK            # nothing else comes to a socket that is bound to one address
    while header != NULL:
        if header.cmsg_level == IPPROTO_IP and header.cmsg_type == IP_PKTINFO:
            return _read_v4(header, parties)
        if header.cmsg_level == IPPROTO_IPV6 and header.cmsg_type == IPV6_PKTINFO:
            return _read_v6(header, parties)
        header = CMSG_NXTHDR(message, header)
    return FP_BAD


cdef void _put(msghdr *message, int level, int kind, const void *value, size_t size) noexcept nogil:
    """Append to the message's control, which begins zeroed."""
    cdef cmsghdr *header = <cmsghdr *>(<uint8_t *>message.msg_control + message.msg_controllen)
    header.cmsg_level = level
    header.cmsg_type = kind
    header.cmsg_len = CMSG_LEN(size)
    memcpy(CMSG_DATA(header), value, size)
    message.msg_controllen += CMSG_SPACE(size)


cdef void datagram_put_local(msghdr *message, const parties_t *parties) noexcept nogil:
    cdef in_pktinfo v4
    cdef in6_pktinfo v6
    if parties.local.any.sa_family == AF_INET:
        memset(&v4, 0, sizeof(v4))
        v4.ipi_spec_dst = parties.local.v4.sin_addr
        _put(message, IPPROTO_IP, IP_PKTINFO, &v4, sizeof(v4))
    else:
        v6.ipi6_addr = parties.local.v6.sin6_addr
        v6.ipi6_ifindex = parties.interface
        _put(message, IPPROTO_IPV6, IPV6_PKTINFO, &v6, sizeof(v6))


# ---- several in one message ----

cdef uint16_t datagram_segment(msghdr *message) noexcept nogil:
    cdef cmsghdr *header
    cdef int size = 0
    if message.msg_controllen == 0:
        return 0
    header = CMSG_FIRSTHDR(message)
    while header != NULL:
        if header.cmsg_level == IPPROTO_UDP and header.cmsg_type == UDP_GRO:
            memcpy(&size, CMSG_DATA(header), sizeof(size))
            return <uint16_t>size
        header = CMSG_NXTHDR(message, header)
    return 0


cdef void datagram_put_segment(msghdr *message, uint16_t size) noexcept nogil:
    _put(message, IPPROTO_UDP, UDP_SEGMENT, &size, sizeof(size))


cdef bint datagram_can_segment(int fd) noexcept nogil:
    cdef int none = 0
    return setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &none, sizeof(none)) == 0


# ---- errors ----

cdef void datagram_prepare(int fd, int family) noexcept nogil:
    cdef int on = 1
    setsockopt(fd, IPPROTO_UDP, UDP_GRO, &on, sizeof(on))
    if family == AF_INET6:
        setsockopt(fd, IPPROTO_IPV6, IPV6_RECVERR, &on, sizeof(on))
    else:
        setsockopt(fd, IPPROTO_IP, IP_RECVERR, &on, sizeof(on))


cdef bint is_refusal(int error) noexcept nogil:
    # Too long for the path, which the kernel then knows better; no memory; none of them now.
    return not (
        error == EMSGSIZE
        or error == ENOBUFS
        or error == ENOMEM
        or error == EAGAIN
        or error == EINTR
    )


cdef bint _is_of_peer(const sock_extended_err *report) noexcept nogil:
    return (
        report.ee_origin == SO_EE_ORIGIN_ICMP or report.ee_origin == SO_EE_ORIGIN_ICMP6
    ) and is_refusal(<int>report.ee_errno)


cdef bint datagram_refused(int fd) noexcept nogil:
    cdef uint64_t control[ERROR_WORDS]
    cdef uint8_t nothing[1]     # of the datagram that it is about
    cdef sock_extended_err report
    cdef cmsghdr *header
    cdef msghdr message
    cdef iovec part
    cdef bint refused = False
    cdef int left = ERRORS_MAX
    part.iov_base = nothing
    part.iov_len = sizeof(nothing)
    while left > 0:
        left -= 1
        memset(&message, 0, sizeof(message))
        message.msg_iov = &part
        message.msg_iovlen = 1
        message.msg_control = control
        message.msg_controllen = sizeof(control)
        if recvmsg(fd, &message, MSG_ERRQUEUE) < 0:
            break
        header = CMSG_FIRSTHDR(&message)
        while header != NULL:
            if (header.cmsg_level == IPPROTO_IP and header.cmsg_type == IP_RECVERR) or (
                header.cmsg_level == IPPROTO_IPV6 and header.cmsg_type == IPV6_RECVERR
            ):
                memcpy(&report, CMSG_DATA(header), sizeof(report))
                refused = refused or _is_of_peer(&report)
            header = CMSG_NXTHDR(&message, header)
    return refused
