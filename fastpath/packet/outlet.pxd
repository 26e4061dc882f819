"""A decided frame on its way out: rewritten, wrapped, cut, or answered.

What is sent waits for outlet_flush, many frames for one system call.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastpath.memory.slab cimport slab_t
from fastpath.packet.flow cimport rewrite_t
from fastpath.packet.parse cimport packet_t
from fastpath.packet.tap cimport frame_t
from fastpath.packet.transmit cimport transmit_t


cdef struct outlet_t:
    transmit_t transmit         # for the owner to set up: transmit_init or transmit_init_caught
    uint32_t interface          # index of the one that clients come by, set by the owner
    uint32_t mtu                # the same one's
    uint64_t answer_due_ns
    slab_t answers_memory
    uint8_t *answers            # TRANSMIT_MAX of ANSWER_SIZE_MAX
    uint32_t n_answers          # that wait in `transmit`
    slab_t pieces_memory
    uint8_t *pieces             # TRANSMIT_MAX pieces of merged packets
    uint32_t n_pieces           # that wait in `transmit`


# FP_OK, but for `transmit`; FP_FULL: there is nothing to free.
cdef int outlet_init(outlet_t *self) noexcept nogil
cdef void outlet_free(outlet_t *self) noexcept nogil
# Write a packet as it is to go and let it wait: its bytes have to stay until outlet_flush, which
# comes by itself when there is no more room. FORWARD_SENT, TOO_BIG, EXPIRED, UNWRITTEN or UNSENT.
cdef int outlet_send(
    outlet_t *self,
    frame_t *frame,
    const packet_t *packet,
    const rewrite_t *rewrite,
    uint64_t now_ms,
) noexcept nogil
# Send what waits.
cdef void outlet_flush(outlet_t *self) noexcept nogil
