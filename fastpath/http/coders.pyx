"""Encoders that responses take turns with."""

from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memcpy

from fastpath.abi cimport BUFFER_SIZE, fp_assert
from fastpath.atomics cimport count, gauge
from fastpath.http.encoders cimport (
    ENCODE_DONE, ENCODE_END, ENCODE_FAILED, ENCODE_GO, encode_t, encoder_again,
    encoder_begin, encoder_end, encoder_run,
)
from fastpath.memory.slab cimport slab_free, slab_get, slab_init, slab_put

cdef enum:
    SIZE_LINE = 6               # up to four digits and a line end, before the bytes
    CHUNK_END = 2               # after them, …
    LAST_CHUNK = 5              # … and after the last ones
    ROOM = BUFFER_SIZE - SIZE_LINE - CHUNK_END - LAST_CHUNK


cdef int coders_init(coders_t *self) noexcept nogil:
    return slab_init(&self.memory, CODERS_MAX, sizeof(coder_t))


cdef void forget(coders_t *self, uint8_t encoding) noexcept nogil:
    """Give up an idle one of that encoding."""
    cdef coder_t *coder = self.idle[encoding]
    self.idle[encoding] = coder.next
    self.n_idle[encoding] -= 1
    encoder_end(&coder.encoder)
    slab_put(&self.memory, coder)


cdef void coders_free(coders_t *self) noexcept nogil:
    cdef uint8_t encoding
    for encoding in range(<uint8_t>ENCODINGS):
        while self.n_idle[encoding] > 0:
            forget(self, encoding)
    fp_assert(self.memory.n_used == 0 and self.n_active == 0)
    slab_free(&self.memory)


cdef coder_t *take(coders_t *self, uint8_t encoding) noexcept nogil:
    """One that is ready to begin, or NULL."""
    cdef coder_t *coder = self.idle[encoding]
    cdef uint8_t other
    if coder != NULL:
        self.idle[encoding] = coder.next
        self.n_idle[encoding] -= 1
        return coder
    coder = <coder_t *>slab_get(&self.memory)
    for other in range(<uint8_t>ENCODINGS):
        if coder == NULL and self.n_idle[other] > 0:
            forget(self, other)
            coder = <coder_t *>slab_get(&self.memory)
    if coder != NULL and not encoder_begin(&coder.encoder, encoding):
        slab_put(&self.memory, coder)
        return NULL
    return coder


cdef coder_t *coder_get(coders_t *self, uint8_t encoding) noexcept nogil:
    cdef coder_t *coder = take(self, encoding)
    if coder == NULL:
        count(&self.n_crowded, 1)
        return NULL
    coder.filled = coder.start = coder.end = 0
    coder.operation = ENCODE_GO
    coder.is_dirty = coder.is_done = coder.has_trailers = False
    gauge(&self.n_active, 1)
    count(&self.counters[encoding].n, 1)
    return coder


cdef void coder_put(coders_t *self, coder_t *coder) noexcept nogil:
    cdef uint8_t encoding = coder.encoder.encoding
    gauge(&self.n_active, -1)
    if self.n_idle[encoding] < CODERS_KEPT and encoder_again(&coder.encoder):
        coder.next = self.idle[encoding]
        self.idle[encoding] = coder
        self.n_idle[encoding] += 1
        return
    encoder_end(&coder.encoder)
    slab_put(&self.memory, coder)


cdef void frame(coder_t *coder) noexcept nogil:
    """Make a chunk of what came out; the last one, too, when all is out."""
    cdef const uint8_t *digits = <const uint8_t *>b"0123456789abcdef"
    cdef uint16_t size = coder.filled
    cdef uint16_t at = SIZE_LINE - 2
    coder.start = coder.end = SIZE_LINE
    coder.filled = 0
    if size > 0:
        coder.end += size
        memcpy(coder.out + coder.end, b"\r\n", CHUNK_END)
        coder.end += CHUNK_END
        memcpy(coder.out + at, b"\r\n", 2)
        while size > 0:
            at -= 1
            coder.out[at] = digits[size & 15]
            size = size >> 4
        coder.start = at
    if coder.is_done and not coder.has_trailers:
        memcpy(coder.out + coder.end, b"0\r\n\r\n", LAST_CHUNK)
        coder.end += LAST_CHUNK


cdef int coder_run(coders_t *self, coder_t *coder, const uint8_t **data,
                   size_t *size) noexcept nogil:
    cdef size_t before = size[0]
    cdef size_t room = ROOM - coder.filled
    cdef int code
    fp_assert(coder.start == coder.end and not coder.is_done)
    code = encoder_run(&coder.encoder, <encode_t>coder.operation, data, size,
                       coder.out + SIZE_LINE + coder.filled, &room)
    if code == ENCODE_FAILED:
        return -1
    count(&self.counters[coder.encoder.encoding].bytes_in, before - size[0])
    count(&self.counters[coder.encoder.encoding].bytes_out, ROOM - room - coder.filled)
    coder.filled = <uint16_t>(ROOM - room)
    coder.is_dirty = True
    if code == ENCODE_DONE:
        if coder.operation == ENCODE_GO:
            return 0
        coder.is_done = coder.operation == ENCODE_END
        coder.is_dirty = False
        coder.operation = ENCODE_GO
    frame(coder)
    return 0
