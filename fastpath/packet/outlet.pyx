"""A decided frame on its way out: rewritten, wrapped, cut, or answered."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from fastpath.abi cimport FP_OK
from fastpath.memory.slab cimport slab_free, slab_get, slab_init
from fastpath.packet.answer cimport ANSWER_SIZE_MAX, answer_expired, answer_too_big
from fastpath.packet.encapsulate cimport encapsulate, encapsulation_size
from fastpath.packet.flow cimport REWRITE_ENCAPSULATE, rewrite_t
from fastpath.packet.outcomes cimport (
    FORWARD_EXPIRED, FORWARD_SENT, FORWARD_TOO_BIG, FORWARD_UNSENT, FORWARD_UNWRITTEN,
)
from fastpath.packet.parse cimport PARSE_FLOW, packet_parse, packet_t
from fastpath.packet.rewrite cimport (
    UNWRITTEN_EXPIRED, WRITTEN, rewrite_finish_checksum, rewrite_fits, rewrite_packet,
)
from fastpath.packet.segment cimport segment_count, segment_write
from fastpath.packet.sys_packet cimport VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_NONE
from fastpath.packet.tap cimport TAP_HEADROOM, frame_t
from fastpath.packet.transmit cimport (
    TRANSMIT_MAX, transmit_add, transmit_flush, transmit_free,
)
from fastpath.rate cimport NS_PER_MS, rate_wait_ms


cdef enum:
    _ANSWERS_PER_S = 100        # ICMP errors of our own
    _PIECE_SIZE = TAP_HEADROOM + 2048


cdef int outlet_init(outlet_t *self) noexcept nogil:
    cdef int result
    memset(self, 0, sizeof(outlet_t))
    self.transmit.fd = -1
    self.transmit.queued_fd = -1
    result = slab_init(&self.answers_memory, 1, TRANSMIT_MAX * ANSWER_SIZE_MAX)
    if result == FP_OK:
        result = slab_init(&self.pieces_memory, 1, TRANSMIT_MAX * _PIECE_SIZE)
    if result != FP_OK:
        outlet_free(self)
        return result
    self.answers = <uint8_t *>slab_get(&self.answers_memory)
    self.pieces = <uint8_t *>slab_get(&self.pieces_memory)
    return FP_OK


cdef void outlet_free(outlet_t *self) noexcept nogil:
    transmit_free(&self.transmit)
    slab_free(&self.pieces_memory)
    slab_free(&self.answers_memory)


cdef void outlet_flush(outlet_t *self) noexcept nogil:
    transmit_flush(&self.transmit)
    self.n_answers = 0
    self.n_pieces = 0


cdef void _make_room(outlet_t *self) noexcept nogil:
    """For one more frame that waits; what it is written in may be that of one that waited."""
    if self.transmit.n >= TRANSMIT_MAX:
        outlet_flush(self)


cdef int _hand_on(outlet_t *self, const frame_t *frame, uint32_t interface) noexcept nogil:
    """Have it wait; there is room."""
    if transmit_add(&self.transmit, frame, interface) == FP_OK:
        return FORWARD_SENT
    return FORWARD_UNSENT


cdef void _answer(outlet_t *self, uint32_t size) noexcept nogil:
    """Send the answer that has just been written, if there is one."""
    cdef frame_t frame
    if size == 0:
        return
    memset(&frame, 0, sizeof(frame))
    frame.data = self.answers + self.n_answers * ANSWER_SIZE_MAX
    frame.size = size
    if _hand_on(self, &frame, self.interface) == FORWARD_SENT:
        self.n_answers += 1


cdef bint _may_answer(outlet_t *self, uint64_t now_ms) noexcept nogil:
    _make_room(self)
    return rate_wait_ms(&self.answer_due_ns, now_ms * NS_PER_MS, _ANSWERS_PER_S) == 0


cdef int _too_big(
    outlet_t *self, const frame_t *frame, const packet_t *packet, uint16_t mtu, uint64_t now_ms
) noexcept nogil:
    if _may_answer(self, now_ms):
        _answer(self, answer_too_big(
            frame.data, packet, mtu, self.answers + self.n_answers * ANSWER_SIZE_MAX
        ))
    return FORWARD_TOO_BIG


cdef int _wrap(
    outlet_t *self, frame_t *frame, const packet_t *packet, const rewrite_t *rewrite
) noexcept nogil:
    """Send it with the outer header before the packet; the frame begins earlier then."""
    cdef uint32_t size = encapsulation_size(rewrite)
    if frame.offload.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM:   # not every card finds it in there
        rewrite_finish_checksum(frame.data, packet)
        memset(&frame.offload, 0, sizeof(frame.offload))
    if encapsulate(frame.data, packet, rewrite) != WRITTEN:
        return FORWARD_UNWRITTEN
    frame.data -= size
    frame.size = packet.end + size
    return _hand_on(self, frame, rewrite.interface)


cdef int _wrap_pieces(
    outlet_t *self, const frame_t *frame, const packet_t *packet, const rewrite_t *rewrite
) noexcept nogil:
    """The kernel cannot cut a merged packet inside a tunnel that it does not know of: we do."""
    cdef frame_t piece
    cdef packet_t its
    cdef uint32_t i
    cdef int verdict
    if packet.payload + frame.offload.gso_size > _PIECE_SIZE - TAP_HEADROOM:
        return FORWARD_UNWRITTEN
    for i in range(segment_count(packet, frame.offload.gso_size)):
        _make_room(self)
        memset(&piece, 0, sizeof(piece))
        piece.data = self.pieces + self.n_pieces * _PIECE_SIZE + TAP_HEADROOM
        piece.size = segment_write(frame.data, packet, frame.offload.gso_size, i, piece.data)
        if packet_parse(piece.data, piece.size, &its) != PARSE_FLOW:
            return FORWARD_UNWRITTEN
        verdict = _wrap(self, &piece, &its, rewrite)
        if verdict != FORWARD_SENT:
            return verdict
        self.n_pieces += 1
    return FORWARD_SENT


cdef int outlet_send(
    outlet_t *self,
    frame_t *frame,
    const packet_t *packet,
    const rewrite_t *rewrite,
    uint64_t now_ms,
) noexcept nogil:
    cdef bint is_partial = frame.offload.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM
    cdef uint32_t segment = 0
    cdef int result
    if frame.offload.gso_type != VIRTIO_NET_HDR_GSO_NONE:
        segment = frame.offload.gso_size
    if not rewrite_fits(packet, rewrite, segment):
        return _too_big(self, frame, packet, rewrite.mtu, now_ms)
    if rewrite.how == REWRITE_ENCAPSULATE:
        if segment > 0:
            return _wrap_pieces(self, frame, packet, rewrite)
        _make_room(self)
        return _wrap(self, frame, packet, rewrite)
    result = rewrite_packet(frame.data, packet, rewrite, is_partial)
    if result == WRITTEN:
        frame.size = packet.end
        _make_room(self)
        return _hand_on(self, frame, rewrite.interface)
    if result == UNWRITTEN_EXPIRED:
        if _may_answer(self, now_ms):
            _answer(self, answer_expired(
                frame.data, packet, self.answers + self.n_answers * ANSWER_SIZE_MAX
            ))
        return FORWARD_EXPIRED
    return FORWARD_UNWRITTEN
