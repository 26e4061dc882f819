"""Frames out by interfaces, many by one system call, past the kernel's IP stack."""

from libc.errno cimport errno
from libc.stdint cimport uint32_t
from libc.string cimport memcpy, memset

from fastpath.abi cimport FP_BAD, FP_FULL, FP_OK
from fastpath.atomics cimport count
from fastpath.packet.sys_packet cimport (
    AF_PACKET, ENETDOWN, ENODEV, ENXIO, ETH_HLEN, MSG_DONTWAIT, PACKET_QDISC_BYPASS,
    PACKET_VNET_HDR, SO_SNDBUFFORCE, SOCK_RAW, SOL_PACKET, VIRTIO_NET_HDR_F_NEEDS_CSUM,
    VIRTIO_NET_HDR_GSO_NONE, sockaddr_ll,
)
from fastpath.sys_linux cimport (
    EAGAIN, EINTR, EMSGSIZE, ENOBUFS, ENOMEM, SOCK_CLOEXEC, SOCK_NONBLOCK, SOL_SOCKET, close,
    sendmmsg, setsockopt, socket,
)

cdef enum:
    # What may be on its way to the hardware; a super-frame counts as some 70 KiB.
    _QUEUE_SIZE = 8 << 20


cdef int _open(bint bypass) noexcept nogil:
    """A socket that hears nothing, as of protocol 0; -1: see errno."""
    cdef int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)
    cdef int yes = 1
    cdef int size = _QUEUE_SIZE
    if fd < 0:
        return -1
    # More than an ordinary socket may send needs CAP_NET_ADMIN; without it there is less.
    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size))
    if setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &yes, sizeof(yes)) == 0 and (
        not bypass
        or setsockopt(fd, SOL_PACKET, PACKET_QDISC_BYPASS, &yes, sizeof(yes)) == 0
    ):
        return fd
    close(fd)
    return -1


cdef void _init(transmit_t *self) noexcept nogil:
    cdef uint32_t i
    memset(self, 0, sizeof(transmit_t))
    self.fd = self.queued_fd = -1
    for i in range(<uint32_t>TRANSMIT_MAX):
        self.targets[i].sll_family = AF_PACKET
        self.parts[i][0].iov_base = &self.offloads[i]
        self.parts[i][0].iov_len = sizeof(self.offloads[i])
        self.messages[i].msg_hdr.msg_iov = self.parts[i]
        self.messages[i].msg_hdr.msg_iovlen = 2
        self.messages[i].msg_hdr.msg_name = &self.targets[i]
        self.messages[i].msg_hdr.msg_namelen = sizeof(sockaddr_ll)


cdef int transmit_init(transmit_t *self, bint bypass) noexcept nogil:
    _init(self)
    self.fd = _open(bypass)
    self.queued_fd = _open(False) if bypass and self.fd >= 0 else self.fd
    if self.queued_fd < 0:
        transmit_free(self)
        return FP_BAD
    return FP_OK


cdef void transmit_init_caught(
    transmit_t *self, transmit_catch_fn catch, void *owner
) noexcept nogil:
    _init(self)
    self.catch = catch
    self.owner = owner


cdef void transmit_free(transmit_t *self) noexcept nogil:
    if self.queued_fd >= 0 and self.queued_fd != self.fd:
        close(self.queued_fd)
    if self.fd >= 0:
        close(self.fd)
    self.fd = self.queued_fd = -1


cdef int transmit_add(transmit_t *self, const frame_t *frame, uint32_t interface) noexcept nogil:
    cdef uint32_t i = self.n
    if i == TRANSMIT_MAX:
        return FP_FULL
    if frame.size < ETH_HLEN:
        return FP_BAD
    self.targets[i].sll_ifindex = <int>interface
    memcpy(&self.targets[i].sll_protocol, frame.data + ETH_HLEN - 2, 2)
    self.offloads[i] = frame.offload
    # That the sum was found good is for receivers.
    self.offloads[i].flags &= VIRTIO_NET_HDR_F_NEEDS_CSUM
    self.parts[i][1].iov_base = frame.data
    self.parts[i][1].iov_len = frame.size
    self.n = i + 1
    return FP_OK


cdef void _count_unsent(transmit_t *self) noexcept nogil:
    if errno in (ENOBUFS, EAGAIN, ENOMEM):
        count(&self.dropped[UNSENT_QUEUE], 1)
    elif errno == EMSGSIZE:
        count(&self.dropped[UNSENT_LONG], 1)
    elif errno == ENETDOWN:
        count(&self.dropped[UNSENT_DOWN], 1)
    elif errno in (ENXIO, ENODEV):
        count(&self.dropped[UNSENT_GONE], 1)
    else:
        count(&self.dropped[UNSENT_BAD], 1)


cdef inline int _way(const transmit_t *self, uint32_t i) noexcept nogil:
    """The socket that a frame leaves by."""
    return self.fd if self.offloads[i].gso_type == VIRTIO_NET_HDR_GSO_NONE else self.queued_fd


cdef void transmit_flush(transmit_t *self) noexcept nogil:
    cdef uint32_t first = 0
    cdef uint32_t end
    cdef int fd
    cdef int n
    if self.catch != NULL:
        self.catch(self.owner, self)
        self.n = 0
        return
    while first < self.n:
        fd = _way(self, first)
        end = first + 1
        while end < self.n and _way(self, end) == fd:
            end += 1
        n = sendmmsg(fd, &self.messages[first], end - first, MSG_DONTWAIT)
        self.calls += 1
        if n > 0:
            # The kernel stopped at one that it does not take; the next call says why.
            count(&self.sent, <uint32_t>n)
            first += <uint32_t>n
        elif errno != EINTR:
            _count_unsent(self)
            first += 1
    self.n = 0
