"""Fragments that came before the first one of their packet, which alone says where they go.

A few frames for a moment: senders send fragments in either order, networks swap them. The oldest
makes room. One thread uses it.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastpath.memory.slab cimport slab_t
from fastpath.packet.fragments cimport fragment_key_t
from fastpath.packet.tap cimport TAP_HEADROOM, TAP_TAILROOM, frame_t


cdef enum:
    HELD_MAX = 64               # frames
    HELD_FRAME_MAX = 2048       # longer ones are not held
    HELD_MS = 500


cdef struct held_frame_t:
    fragment_key_t key
    uint64_t since_ms           # 0: nothing is here
    frame_t frame               # its data points into `memory`
    uint8_t memory[TAP_HEADROOM + HELD_FRAME_MAX + TAP_TAILROOM]


cdef struct held_t:
    slab_t memory
    held_frame_t *frames        # HELD_MAX
    uint32_t n
    uint32_t next
    uint64_t forgotten          # made room, or nothing came in time


# FP_OK or FP_FULL.
cdef int held_init(held_t *self) noexcept nogil
cdef void held_free(held_t *self) noexcept nogil
# Copy it. FP_OK, or FP_BAD: it is too long.
cdef int held_put(
    held_t *self, const fragment_key_t *key, const frame_t *frame, uint64_t now_ms
) noexcept nogil
# Take one of that packet out; NULL: there is none left. Good until the next held_put.
cdef frame_t *held_take(held_t *self, const fragment_key_t *key, uint64_t now_ms) noexcept nogil
