"""Frames that come in by an interface, taken before the kernel's IP stack sees them."""

from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from fastpath.abi cimport FP_AGAIN, FP_BAD, FP_FULL, FP_OK, FP_RESET, fp_assert
from fastpath.atomics cimport count
from fastpath.memory.slab cimport slab_free, slab_get, slab_init
from fastpath.packet.sys_packet cimport (
    AF_PACKET, ENETDOWN, ETH_P_8021Q, ETH_P_ALL, MAP_SHARED, MSG_DONTWAIT, PACKET_COPY_THRESH,
    PACKET_IGNORE_OUTGOING, PACKET_RESERVE, PACKET_RX_RING, PACKET_STATISTICS, PACKET_VERSION,
    PACKET_VNET_HDR, SO_ATTACH_FILTER, SO_RCVBUFFORCE, SOCK_RAW, SOL_PACKET, TP_STATUS_COPY,
    TP_STATUS_USER, TP_STATUS_VLAN_TPID_VALID, TP_STATUS_VLAN_VALID, TPACKET_V2, mtu_of,
    slot_return, slot_status, sock_filter, sock_fprog, sockaddr_ll, tpacket2_hdr, tpacket_req,
    tpacket_stats,
)
from fastpath.sys_linux cimport (
    EINTR, MAP_FAILED, MSG_TRUNC, PROT_READ, PROT_WRITE, SO_ERROR, SOCK_CLOEXEC, SOCK_NONBLOCK,
    SOL_SOCKET, bind, close, getsockname, getsockopt, htons, iovec, mmap, msghdr, munmap, recvmsg,
    setsockopt, sockaddr, socket, socklen_t,
)

cdef enum:
    # With it the IP header begins at a multiple of 16: the kernel puts the 10 bytes of `offload`
    # between this and the Ethernet header, and aligns what is before.
    _RESERVE = TAP_HEADROOM + 16 - 10
    # Before the frame in a slot at most: two headers of the kernel (80 bytes), this and offload.
    _BEFORE = 80 + TAP_HEADROOM + 16
    _ETHERNET = 18              # header and a tag
    _BLOCK_SIZE = 1 << 16       # what the kernel allocates at once; a multiple of any page's size
    _LONG_SIZE = TAP_HEADROOM + TAP_FRAME_MAX + TAP_TAILROOM
    # What waits in the queue: some 80 long frames, a tenth of a second of 1 Gbit/s.
    _QUEUE_SIZE = 16 << 20
    _MAC_SIZE = 6


cdef bint _set(int fd, int level, int name, int value) noexcept nogil:
    return setsockopt(fd, level, name, &value, sizeof(value)) == 0


cdef bint _prepare(tap_t *self) noexcept nogil:
    """What has to be said before there is a ring."""
    # More than an ordinary socket may queue needs CAP_NET_ADMIN; without it there is less.
    _set(self.fd, SOL_SOCKET, SO_RCVBUFFORCE, _QUEUE_SIZE)
    return (
        _set(self.fd, SOL_PACKET, PACKET_VERSION, TPACKET_V2)
        and _set(self.fd, SOL_PACKET, PACKET_VNET_HDR, 1)
        and _set(self.fd, SOL_PACKET, PACKET_RESERVE, _RESERVE)
        and _set(self.fd, SOL_PACKET, PACKET_COPY_THRESH, 1)
        and _set(self.fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    )


cdef bint _make_ring(tap_t *self, uint32_t mtu, uint32_t n_slots) noexcept nogil:
    cdef tpacket_req request
    cdef uint32_t needed = _BEFORE + _ETHERNET + mtu + TAP_TAILROOM
    cdef uint32_t i
    if n_slots == 0 or n_slots & (n_slots - 1):
        return False
    self.slot_size = 2048
    while self.slot_size < needed and self.slot_size < _BLOCK_SIZE:
        self.slot_size *= 2
    # A block may not be longer than the ring.
    self.n_slots = max(n_slots, <uint32_t>_BLOCK_SIZE // self.slot_size)
    memset(&request, 0, sizeof(request))
    request.tp_block_size = _BLOCK_SIZE
    request.tp_block_nr = self.n_slots // (<uint32_t>_BLOCK_SIZE // self.slot_size)
    request.tp_frame_size = self.slot_size
    request.tp_frame_nr = self.n_slots
    if setsockopt(self.fd, SOL_PACKET, PACKET_RX_RING, &request, sizeof(request)) != 0:
        return False
    self.ring = <uint8_t *>mmap(
        NULL, <size_t>self.n_slots * self.slot_size, PROT_READ | PROT_WRITE, MAP_SHARED, self.fd, 0
    )
    if <void *>self.ring == MAP_FAILED:
        self.ring = NULL
        return False
    if slab_init(&self.memory, TAP_LONG_MAX, _LONG_SIZE) != FP_OK:
        return False
    for i in range(<uint32_t>TAP_LONG_MAX):
        self.long_frames[i] = <uint8_t *>slab_get(&self.memory)
    return True


cdef bint _bind(int fd, uint32_t interface) noexcept nogil:
    cdef sockaddr_ll address
    memset(&address, 0, sizeof(address))
    address.sll_family = AF_PACKET
    address.sll_protocol = htons(ETH_P_ALL)
    address.sll_ifindex = <int>interface
    return bind(fd, <sockaddr *>&address, sizeof(address)) == 0


cdef int _open(
    tap_t *self, uint32_t interface, const sock_filter *program, uint16_t n_instructions,
    uint32_t n_slots,
) noexcept nogil:
    """What failed, TAP_*."""
    cdef int mtu
    # Of protocol 0 it hears nothing until it is bound.
    self.fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)
    if self.fd < 0:
        return TAP_SOCKET
    mtu = mtu_of(self.fd, interface)
    if mtu < 0:
        return TAP_INTERFACE
    if tap_filter(self, program, n_instructions) != FP_OK:
        return TAP_FILTER
    if not _prepare(self):
        return TAP_OPTION
    if not _make_ring(self, <uint32_t>mtu, n_slots):
        return TAP_RING
    return TAP_OPENED if _bind(self.fd, interface) else TAP_BIND


cdef int tap_init(
    tap_t *self, uint32_t interface, const sock_filter *program, uint16_t n_instructions,
    uint32_t n_slots,
) noexcept nogil:
    memset(self, 0, sizeof(tap_t))
    self.failed = <uint8_t>_open(self, interface, program, n_instructions, n_slots)
    if self.failed == TAP_OPENED:
        return FP_OK
    self.error = errno
    tap_free(self)
    return FP_BAD


cdef void tap_free(tap_t *self) noexcept nogil:
    if self.ring != NULL:
        munmap(self.ring, <size_t>self.n_slots * self.slot_size)
        self.ring = NULL
    if self.fd >= 0:
        close(self.fd)
        self.fd = -1
    slab_free(&self.memory)


cdef int tap_filter(tap_t *self, const sock_filter *program, uint16_t n) noexcept nogil:
    cdef sock_fprog attached
    attached.len = n
    attached.filter = <sock_filter *>program
    if setsockopt(self.fd, SOL_SOCKET, SO_ATTACH_FILTER, &attached, sizeof(attached)) != 0:
        return FP_BAD
    return FP_OK


cdef inline tpacket2_hdr *_slot(tap_t *self, uint32_t index) noexcept nogil:
    return <tpacket2_hdr *>(
        self.ring + <size_t>(index & (self.n_slots - 1)) * self.slot_size
    )


cdef int _take_long(tap_t *self, frame_t *frame) noexcept nogil:
    """The frame at the head of the socket's queue: FP_OK, or FP_BAD when it is not whole."""
    cdef uint8_t *data = self.long_frames[self.n_long] + TAP_HEADROOM
    cdef iovec parts[2]
    cdef msghdr message
    cdef ssize_t size = -1
    memset(&message, 0, sizeof(message))
    parts[0].iov_base = &frame.offload
    parts[0].iov_len = sizeof(frame.offload)
    parts[1].iov_base = data
    parts[1].iov_len = TAP_FRAME_MAX
    message.msg_iov = parts
    message.msg_iovlen = 2
    while size < 0:
        size = recvmsg(self.fd, &message, MSG_DONTWAIT)
        # ENETDOWN is told once; what is in the queue is still there.
        if size < 0 and errno != EINTR and errno != ENETDOWN:
            return FP_BAD
    if message.msg_flags & MSG_TRUNC or size < <ssize_t>sizeof(frame.offload):
        return FP_BAD
    frame.data = data
    frame.size = <uint32_t>(size - <ssize_t>sizeof(frame.offload))
    self.n_long += 1
    count(&self.counters.long_frames, 1)
    return FP_OK


cdef int tap_next(tap_t *self, frame_t *frame) noexcept nogil:
    cdef tpacket2_hdr *slot
    cdef uint32_t status
    cdef uint8_t *data
    while True:
        if self.next - self.released == self.n_slots:
            return FP_FULL
        slot = _slot(self, self.next)
        status = slot_status(slot)
        if not status & TP_STATUS_USER:
            return FP_AGAIN
        if status & TP_STATUS_COPY and self.n_long == TAP_LONG_MAX:
            return FP_FULL
        self.next += 1
        frame.vlan = slot.tp_vlan_tci if status & TP_STATUS_VLAN_VALID else 0
        frame.vlan_protocol = 0
        if status & TP_STATUS_VLAN_VALID:
            frame.vlan_protocol = ETH_P_8021Q
            if status & TP_STATUS_VLAN_TPID_VALID:
                frame.vlan_protocol = slot.tp_vlan_tpid
        if status & TP_STATUS_COPY:
            if _take_long(self, frame) == FP_OK:
                break
        elif slot.tp_snaplen == slot.tp_len:
            data = <uint8_t *>slot + slot.tp_mac
            fp_assert(slot.tp_mac + slot.tp_len <= self.slot_size)
            memcpy(&frame.offload, data - sizeof(frame.offload), sizeof(frame.offload))
            frame.data = data
            frame.size = slot.tp_len
            break
        count(&self.counters.truncated, 1)
    count(&self.counters.frames, 1)
    return FP_OK


cdef void tap_release(tap_t *self) noexcept nogil:
    while self.released != self.next:
        slot_return(_slot(self, self.released))
        self.released += 1
    self.n_long = 0


cdef int tap_check(tap_t *self) noexcept nogil:
    cdef sockaddr_ll address
    cdef socklen_t size = sizeof(address)
    cdef int error = 0
    cdef socklen_t error_size = sizeof(error)
    memset(&address, 0, sizeof(address))
    getsockopt(self.fd, SOL_SOCKET, SO_ERROR, &error, &error_size)
    if error == ENETDOWN:
        count(&self.counters.down, 1)
    # The kernel forgets the index of an interface that has gone.
    if getsockname(self.fd, <sockaddr *>&address, &size) != 0 or address.sll_ifindex <= 0:
        return FP_RESET
    return FP_AGAIN if error == ENETDOWN else FP_OK


cdef int tap_mac(const tap_t *self, uint8_t *mac) noexcept nogil:
    cdef sockaddr_ll address
    cdef socklen_t size = sizeof(address)
    memset(&address, 0, sizeof(address))
    if (
        getsockname(self.fd, <sockaddr *>&address, &size) != 0
        or address.sll_ifindex <= 0
        or address.sll_halen != _MAC_SIZE
    ):
        return FP_BAD
    memcpy(mac, address.sll_addr, _MAC_SIZE)
    return FP_OK


cdef void tap_statistics(tap_t *self) noexcept nogil:
    cdef tpacket_stats statistics       # the kernel begins anew when it is read
    cdef socklen_t size = sizeof(statistics)
    if getsockopt(self.fd, SOL_PACKET, PACKET_STATISTICS, &statistics, &size) == 0:
        count(&self.counters.dropped, statistics.tp_drops)
