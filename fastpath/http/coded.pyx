"""A body on its way through an encoder."""

from libc.stdint cimport uint8_t, uint16_t

from fastpath.abi cimport BUFFER_SIZE, FP_AGAIN, FP_DONE, FP_RESET, fp_assert
from fastpath.http.coders cimport coder_run
from fastpath.http.encoders cimport ENCODE_END, ENCODE_FLUSH, ENCODE_GO
from fastpath.http.flow cimport (
    PUMP_CUT, PUMP_DONE, PUMP_MALFORMED, PUMP_STUCK, PUMP_TROUBLE, PUMP_WAIT, flow_decode,
    flow_fill, flow_flush, flow_trim,
)
from fastpath.loop cimport READABLE, WRITABLE, endpoint_writev, loop_again, loop_watch
from fastpath.sys_linux cimport EPOLLIN, EPOLLOUT, iovec

cdef enum:
    # Read before others get their turn: compressing that takes a Pi 3 ms.
    TURN_SIZE = 4 * BUFFER_SIZE


cdef void coded_begin(flow_t *self, coder_t *coder) noexcept nogil:
    fp_assert(self.coder == NULL)
    self.coder = coder
    self.as_chunks = False      # chunks are made of what comes out of the coder
    self.prefix_start = self.prefix_end = 0
    self.tail_start = self.tail_end = 0


cdef inline bint has_head(const flow_t *self) noexcept nogil:
    """Whether the response's head waits, and not the trailers, which have its place later."""
    return self.head_start < self.head_end and not self.coder.has_trailers


cdef ssize_t write_parts(flow_t *self, endpoint_t *target) noexcept nogil:
    """Write the head and the chunk by one system call."""
    cdef coder_t *coder = self.coder
    cdef iovec parts[2]
    cdef uint16_t head_size = 0
    cdef ssize_t written
    cdef int n = 0
    if has_head(self):
        head_size = self.head_end - self.head_start
        parts[0].iov_base = self.head + self.head_start
        parts[0].iov_len = head_size
        n = 1
    parts[n].iov_base = coder.out + coder.start
    parts[n].iov_len = coder.end - coder.start
    written = endpoint_writev(target, parts, n + 1)
    if written <= 0:
        return written
    self.moved += written
    if written < head_size:
        self.head_start += <uint16_t>written
    else:
        self.head_start += head_size
        coder.start += <uint16_t>(written - head_size)
    return written


cdef int write_chunk(loop_t *loop, flow_t *self, endpoint_t *target) noexcept nogil:
    """Write the chunk that waits, behind the head: FP_DONE, FP_AGAIN (`target` is watched),
    FP_RESET."""
    cdef coder_t *coder = self.coder
    while coder.start < coder.end:
        if target.ready & WRITABLE and write_parts(self, target) == FP_RESET:
            return FP_RESET
        if coder.start < coder.end and not target.ready & WRITABLE:
            return FP_AGAIN if loop_watch(loop, target, EPOLLOUT) == 0 else FP_RESET
    return FP_DONE


cdef inline pump_t outcome_of(int code) noexcept nogil:
    """Of a write that is not done."""
    return PUMP_STUCK if code == FP_RESET else PUMP_WAIT


cdef int encode(stores_t *stores, flow_t *self) noexcept nogil:
    cdef const uint8_t *data = self.buffer + self.out_start
    cdef size_t size = self.out_end - self.out_start
    cdef int code = coder_run(&stores.coders, self.coder, &data, &size)
    self.out_start = self.out_end - <uint16_t>size
    return code


cdef pump_t pause(loop_t *loop, stores_t *stores, flow_t *self, endpoint_t *source,
                  endpoint_t *target) noexcept nogil:
    """Nothing comes now: let everything out that has come."""
    cdef int code
    if self.coder.is_dirty:
        self.coder.operation = ENCODE_FLUSH
        return PUMP_DONE
    code = flow_flush(loop, self, target)
    if code != FP_DONE:
        return outcome_of(code)
    flow_trim(loop, stores, self)
    return PUMP_WAIT if loop_watch(loop, source, EPOLLIN) == 0 else PUMP_CUT


cdef pump_t take_trailers(loop_t *loop, stores_t *stores, flow_t *self,
                          endpoint_t *target) noexcept nogil:
    """Their fields take the place of the head, which has to be gone by then."""
    cdef int code = flow_flush(loop, self, target)
    if code != FP_DONE:
        return outcome_of(code)
    if flow_decode(stores, self) < 0:
        return PUMP_MALFORMED
    self.coder.has_trailers = self.is_whole
    return PUMP_DONE


cdef pump_t feed(loop_t *loop, stores_t *stores, flow_t *self, endpoint_t *source,
                 endpoint_t *target, ssize_t *left) noexcept nogil:
    """Get something to encode; PUMP_DONE: go on."""
    cdef pump_t outcome
    if self.raw_start == self.raw_end:
        self.raw_start = self.raw_end = self.out_start = self.out_end = 0
    elif self.trailers == NULL:
        return PUMP_DONE if flow_decode(stores, self) == 0 else PUMP_MALFORMED
    elif self.trailers.pos < self.raw_end - self.raw_start:
        return take_trailers(loop, stores, self, target)
    if source.ready & READABLE:
        if left[0] <= 0:
            loop_again(loop, source)
            return PUMP_WAIT
        left[0] -= BUFFER_SIZE
        outcome = flow_fill(loop, self, source)
        if outcome != PUMP_WAIT:
            return outcome
    return pause(loop, stores, self, source, target)


cdef pump_t coded_pump(loop_t *loop, stores_t *stores, flow_t *self, endpoint_t *source,
                       endpoint_t *target) noexcept nogil:
    cdef coder_t *coder = self.coder
    cdef ssize_t left = TURN_SIZE
    cdef pump_t outcome
    cdef int code
    while True:
        code = write_chunk(loop, self, target)
        if code == FP_DONE and coder.is_done:
            code = flow_flush(loop, self, target)       # trailers
            if code == FP_DONE:
                return PUMP_DONE
        if code != FP_DONE:
            return outcome_of(code)
        if self.is_whole:
            coder.operation = ENCODE_END
        if self.out_start < self.out_end or coder.operation != ENCODE_GO:
            if encode(stores, self) < 0:
                return PUMP_TROUBLE
            continue
        outcome = feed(loop, stores, self, source, target, &left)
        if outcome != PUMP_DONE:
            return outcome
