"""One datagram in, one out, with the address of ours that the client used (RFC 3542, section 6)."""

from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.string cimport memcpy, memset

from fastpath.abi cimport FP_AGAIN, FP_BAD, FP_FULL, FP_OK, FP_RESET
from fastpath.sys_linux cimport (
    AF_INET, AF_INET6, CMSG_DATA, CMSG_FIRSTHDR, CMSG_LEN, CMSG_NXTHDR, CMSG_SPACE, EAGAIN, EINTR,
    IPPROTO_IP, IPPROTO_IPV6, IPV6_PKTINFO, IP_PKTINFO, MSG_NOSIGNAL, MSG_TRUNC, cmsghdr, htons,
    in6_pktinfo, in_pktinfo, iovec, msghdr, recvmsg, sendmsg,
)


cdef enum:
    CONTROL_WORDS = 8           # of 64 bits: room for either kind of packet information, aligned


cdef int _read_v4(const cmsghdr *header, uint16_t port, parties_t *parties) noexcept nogil:
    cdef in_pktinfo info
    memcpy(&info, CMSG_DATA(<cmsghdr *>header), sizeof(info))
    # They differ when it came by broadcast or multicast.
    if info.ipi_addr.s_addr != info.ipi_spec_dst.s_addr:
        return FP_BAD
    parties.local.v4.sin_family = AF_INET
    parties.local.v4.sin_port = htons(port)
    parties.local.v4.sin_addr = info.ipi_spec_dst
    return FP_OK


cdef int _read_v6(const cmsghdr *header, uint16_t port, parties_t *parties) noexcept nogil:
    cdef in6_pktinfo info
    memcpy(&info, CMSG_DATA(<cmsghdr *>header), sizeof(info))
    if info.ipi6_addr.s6_addr[0] == 0xff:                       # multicast
        return FP_BAD
    parties.local.v6.sin6_family = AF_INET6
    parties.local.v6.sin6_port = htons(port)
    parties.local.v6.sin6_addr = info.ipi6_addr
    if info.ipi6_addr.s6_addr[0] == 0xfe and info.ipi6_addr.s6_addr[1] & 0xc0 == 0x80:
        parties.interface = info.ipi6_ifindex
    return FP_OK


cdef int _read_local(msghdr *message, uint16_t port, parties_t *parties) noexcept nogil:
    """Find out where the datagram was sent to. FP_OK or FP_BAD."""
    cdef cmsghdr *header = CMSG_FIRSTHDR(message)
    while header != NULL:
        if header.cmsg_level == IPPROTO_IP and header.cmsg_type == IP_PKTINFO:
            return _read_v4(header, port, parties)
        if header.cmsg_level == IPPROTO_IPV6 and header.cmsg_type == IPV6_PKTINFO:
            return _read_v6(header, port, parties)
        header = CMSG_NXTHDR(message, header)
    return FP_BAD


cdef ssize_t datagram_receive(
    int fd, uint8_t *data, size_t size, uint16_t port, parties_t *parties
) noexcept nogil:
    cdef uint64_t control[CONTROL_WORDS]
    cdef msghdr message
    cdef iovec part
    cdef ssize_t n = FP_AGAIN
    memset(parties, 0, sizeof(parties_t))
    memset(&message, 0, sizeof(message))
    part.iov_base = data
    part.iov_len = size
    message.msg_iov = &part
    message.msg_iovlen = 1
    message.msg_name = &parties.client
    message.msg_namelen = sizeof(parties.client)
    message.msg_control = control
    message.msg_controllen = sizeof(control)
    while True:
        n = recvmsg(fd, &message, 0)
        if n >= 0:
            break
        if errno != EINTR:
            return FP_AGAIN if errno == EAGAIN else FP_RESET
    if message.msg_flags & MSG_TRUNC:
        return FP_FULL
    return n if _read_local(&message, port, parties) == FP_OK else FP_BAD


cdef void _put_local(msghdr *message, const parties_t *parties) noexcept nogil:
    """Say which address the datagram is to come from."""
    cdef cmsghdr *header = CMSG_FIRSTHDR(message)
    cdef in_pktinfo v4
    cdef in6_pktinfo v6
    if parties.local.any.sa_family == AF_INET:
        memset(&v4, 0, sizeof(v4))
        v4.ipi_spec_dst = parties.local.v4.sin_addr
        header.cmsg_level = IPPROTO_IP
        header.cmsg_type = IP_PKTINFO
        header.cmsg_len = CMSG_LEN(sizeof(v4))
        memcpy(CMSG_DATA(header), &v4, sizeof(v4))
        message.msg_controllen = CMSG_SPACE(sizeof(v4))
    else:
        v6.ipi6_addr = parties.local.v6.sin6_addr
        v6.ipi6_ifindex = parties.interface
        header.cmsg_level = IPPROTO_IPV6
        header.cmsg_type = IPV6_PKTINFO
        header.cmsg_len = CMSG_LEN(sizeof(v6))
        memcpy(CMSG_DATA(header), &v6, sizeof(v6))
        message.msg_controllen = CMSG_SPACE(sizeof(v6))


cdef int datagram_send(
    int fd, const uint8_t *data, size_t size, const parties_t *parties
) noexcept nogil:
    cdef uint64_t control[CONTROL_WORDS]
    cdef msghdr message
    cdef iovec part
    memset(control, 0, sizeof(control))
    memset(&message, 0, sizeof(message))
    part.iov_base = <void *>data
    part.iov_len = size
    message.msg_iov = &part
    message.msg_iovlen = 1
    message.msg_name = <void *>&parties.client
    message.msg_namelen = sizeof(parties.client)
    message.msg_control = control
    message.msg_controllen = sizeof(control)
    _put_local(&message, parties)
    while True:
        if sendmsg(fd, &message, MSG_NOSIGNAL) >= 0:
            return FP_OK
        if errno != EINTR:
            return FP_BAD
