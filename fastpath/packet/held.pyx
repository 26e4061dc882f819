"""Fragments that wait for the first one of their packet."""

from libc.stdint cimport uint64_t
from libc.string cimport memcmp, memcpy, memset

from fastpath.abi cimport FP_BAD, FP_FULL, FP_OK
from fastpath.memory.slab cimport slab_free, slab_get, slab_init
from fastpath.packet.fragments cimport fragment_key_t
from fastpath.packet.tap cimport TAP_HEADROOM, frame_t


cdef int held_init(held_t *self) noexcept nogil:
    memset(self, 0, sizeof(held_t))
    if slab_init(&self.memory, 1, HELD_MAX * sizeof(held_frame_t)) != FP_OK:
        return FP_FULL
    self.frames = <held_frame_t *>slab_get(&self.memory)      # fresh pages are zero
    return FP_OK


cdef void held_free(held_t *self) noexcept nogil:
    slab_free(&self.memory)
    memset(self, 0, sizeof(held_t))


cdef int held_put(
    held_t *self, const fragment_key_t *key, const frame_t *frame, uint64_t now_ms
) noexcept nogil:
    cdef held_frame_t *held = &self.frames[self.next]
    if frame.size > HELD_FRAME_MAX:
        return FP_BAD
    self.next = (self.next + 1) % HELD_MAX
    if held.since_ms != 0:
        self.forgotten += 1
        self.n -= 1
    held.key = key[0]
    held.since_ms = now_ms if now_ms > 0 else 1
    held.frame = frame[0]
    held.frame.data = held.memory + TAP_HEADROOM
    memcpy(held.frame.data, frame.data, frame.size)
    self.n += 1
    return FP_OK


cdef frame_t *held_take(held_t *self, const fragment_key_t *key, uint64_t now_ms) noexcept nogil:
    cdef held_frame_t *held
    cdef int i
    if self.n == 0:
        return NULL
    for i in range(HELD_MAX):
        held = &self.frames[i]
        if held.since_ms == 0 or memcmp(&held.key, key, sizeof(fragment_key_t)) != 0:
            continue
        self.n -= 1
        if now_ms - held.since_ms > HELD_MS:
            self.forgotten += 1
            held.since_ms = 0
            continue
        held.since_ms = 0
        return &held.frame
    return NULL
