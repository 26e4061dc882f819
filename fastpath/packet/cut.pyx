"""A super-frame cut into the packets that it stands for, where the kernel does not do it."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from fastpath.abi cimport FP_BAD, FP_OK
from fastpath.packet.checksum cimport checksum_add, checksum_add_word, checksum_fold
from fastpath.packet.headers cimport (
    TCP_CHECKSUM, TCP_FIN, TCP_FLAGS, TCP_OFFSET, TCP_SIZE, UDP_CHECKSUM, UDP_LENGTH, UDP_SIZE,
    V4_CHECKSUM, V4_ID, V4_LENGTH, V4_SIZE, V6_LENGTH, V6_SIZE, load16, load_be16, load_be32,
    store16, store_be16,
)
from fastpath.packet.sys_packet cimport (
    VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_ECN, VIRTIO_NET_HDR_GSO_TCPV4,
    VIRTIO_NET_HDR_GSO_TCPV6, VIRTIO_NET_HDR_GSO_UDP_L4, virtio_net_hdr,
)
from fastpath.packet.transmit cimport (
    HEAD_MAX, TRANSMIT_MAX, transmit_add_parts, transmit_flush, transmit_head,
)
from fastpath.sys_linux cimport htons

cdef enum:
    _TCP_PSH = 0x08
    _TCP_CWR = 0x80


cdef struct _cut_t:             # what all packets of a frame have in common
    uint32_t outer              # offsets
    uint32_t l3
    uint32_t l4
    uint32_t head_size          # bytes before the payload
    uint32_t l4_size            # of the whole frame
    uint32_t piece              # payload of each but the last
    uint16_t checksum           # offset behind `l4`
    bint is_tcp


cdef uint32_t _ip_size(const uint8_t *data, uint32_t size) noexcept nogil:
    """Of the IP header in so many bytes; 0: there is none."""
    cdef uint32_t found = 0
    if size >= V4_SIZE and data[0] >> 4 == 4:
        found = <uint32_t>(data[0] & 15) * 4
        return found if V4_SIZE <= found <= size else 0
    return V6_SIZE if size >= V6_SIZE and data[0] >> 4 == 6 else 0


cdef int _understand(
    _cut_t *self, const frame_t *frame, uint32_t outer, uint32_t l3
) noexcept nogil:
    """FP_OK or FP_BAD."""
    cdef uint8_t kind = frame.offload.gso_type & <uint8_t>~VIRTIO_NET_HDR_GSO_ECN
    self.outer = outer
    self.l3 = l3
    self.l4 = frame.offload.csum_start
    self.piece = frame.offload.gso_size
    self.is_tcp = kind == VIRTIO_NET_HDR_GSO_TCPV4 or kind == VIRTIO_NET_HDR_GSO_TCPV6
    if not self.is_tcp and kind != VIRTIO_NET_HDR_GSO_UDP_L4:
        return FP_BAD
    if self.piece == 0 or not frame.offload.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM:
        return FP_BAD
    if l3 >= self.l4 or outer > l3 or self.l4 + TCP_SIZE > HEAD_MAX:
        return FP_BAD
    if frame.size < self.l4 + UDP_SIZE or frame.size - self.l4 > 0xffff:
        return FP_BAD
    if _ip_size(frame.data + l3, self.l4 - l3) == 0:
        return FP_BAD
    if outer < l3 and _ip_size(frame.data + outer, l3 - outer) == 0:
        return FP_BAD
    self.l4_size = frame.size - self.l4
    self.head_size = self.l4 + UDP_SIZE
    self.checksum = TCP_CHECKSUM if self.is_tcp else UDP_CHECKSUM
    if frame.offload.csum_offset != self.checksum:
        return FP_BAD
    if self.is_tcp:
        if frame.size < self.l4 + TCP_SIZE:
            return FP_BAD
        self.head_size = self.l4 + <uint32_t>(frame.data[self.l4 + TCP_OFFSET] >> 4) * 4
        if self.head_size < self.l4 + TCP_SIZE or self.head_size > HEAD_MAX:
            return FP_BAD
    return FP_OK if self.head_size < frame.size else FP_BAD


cdef void _set_length(uint8_t *ip, uint32_t size, uint32_t index) noexcept nogil:
    """`size` of the packet, its header included; `index`: what is added to an IPv4 id."""
    if ip[0] >> 4 == 6:
        store_be16(ip + V6_LENGTH, <uint16_t>(size - V6_SIZE))
        return
    store_be16(ip + V4_LENGTH, <uint16_t>size)
    store_be16(ip + V4_ID, <uint16_t>(load_be16(ip + V4_ID) + index))
    store16(ip + V4_CHECKSUM, 0)
    store16(
        ip + V4_CHECKSUM,
        <uint16_t>~checksum_fold(checksum_add(0, ip, <size_t>(ip[0] & 15) * 4)),
    )


cdef void _shape(
    const _cut_t *self, uint8_t *head, uint32_t index, uint32_t size
) noexcept nogil:
    """Make the copy of the headers that of the `index`-th packet, with `size` bytes of payload."""
    cdef uint8_t *l4 = head + self.l4
    cdef uint32_t end = self.head_size + size
    cdef uint32_t done = index * self.piece
    cdef uint32_t sequence
    cdef uint64_t sum
    _set_length(head + self.l3, end - self.l3, index)
    if self.outer < self.l3:
        _set_length(head + self.outer, end - self.outer, 0)
    # The pseudo-header has the length.
    sum = checksum_add_word(load16(l4 + self.checksum), htons(<uint16_t>(end - self.l4)))
    sum = checksum_add_word(sum, <uint16_t>~htons(<uint16_t>self.l4_size))
    store16(l4 + self.checksum, checksum_fold(sum))
    if not self.is_tcp:
        store_be16(l4 + UDP_LENGTH, <uint16_t>(end - self.l4))
        return
    sequence = load_be32(l4 + 4) + done
    store_be16(l4 + 4, <uint16_t>(sequence >> 16))
    store_be16(l4 + 6, <uint16_t>sequence)
    if index > 0:
        l4[TCP_FLAGS] &= <uint8_t>~_TCP_CWR
    if end + done < self.l4 + self.l4_size:
        l4[TCP_FLAGS] &= <uint8_t>~(TCP_FIN | _TCP_PSH)


cdef int cut_and_add(
    transmit_t *transmit, const frame_t *frame, uint32_t interface, uint32_t outer, uint32_t l3
) noexcept nogil:
    cdef _cut_t cut
    cdef virtio_net_hdr offload
    cdef uint8_t *head
    cdef uint32_t at
    cdef uint32_t size
    cdef uint32_t index = 0
    if _understand(&cut, frame, outer, l3) != FP_OK:
        return FP_BAD
    memset(&offload, 0, sizeof(offload))
    offload.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM
    offload.csum_start = frame.offload.csum_start
    offload.csum_offset = frame.offload.csum_offset
    at = cut.head_size
    while at < frame.size:
        size = min(cut.piece, frame.size - at)
        if transmit.n == TRANSMIT_MAX:
            transmit_flush(transmit)
        head = transmit_head(transmit)
        memcpy(head, frame.data, cut.head_size)
        _shape(&cut, head, index, size)
        transmit_add_parts(
            transmit, head, cut.head_size, frame.data + at, size, &offload, interface
        )
        at += size
        index += 1
    return FP_OK
