"""One direction of an exchange."""

from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memcpy, memmove

from fastpath.abi cimport BUFFER_SIZE, FP_AGAIN, FP_DONE, FP_RESET, fp_assert
from fastpath.http.coders cimport coder_put
from fastpath.http.forward cimport forward_trailers
from fastpath.http.framing cimport (
    BODY_DONE, BODY_LENGTH, BODY_TRAILERS, BODY_UNTIL_CLOSE, body_take,
)
from fastpath.http.http1 cimport HEAD_DONE, HEAD_TRAILERS, head_init, head_scan
from fastpath.loop cimport (
    READABLE, WRITABLE, buffer_get, buffer_put, endpoint_ask, endpoint_read,
    endpoint_splice_in, endpoint_splice_out, endpoint_write, endpoint_writev, loop_again,
    loop_watch,
)
from fastpath.memory.pipes cimport pipe_get, pipe_put
from fastpath.memory.slab cimport slab_get, slab_put
from fastpath.sys_linux cimport EPOLLIN, EPOLLOUT, iovec

cdef enum:
    TURN_SIZE = 16 * BUFFER_SIZE        # read in one direction before others get their turn
    SPLICED_TURN_SIZE = 1 << 19         # the same of what costs no copy
    SPLICE_FROM = 4 * BUFFER_SIZE       # a body's rest that is worth a pipe
    SPLICED_MIN = 4096          # less at a time: copying is cheaper
    TAIL_CHUNK = 2              # TAIL[:2] ends a chunk, TAIL[2:] is the last chunk
    TAIL_SIZE = 7
    PARTS_MAX = 4
    JOINED_MAX = 4096           # bytes of head and body that are copied to be written as one

cdef const uint8_t *TAIL = b"\r\n0\r\n\r\n"


cdef void let_go(loop_t *loop, flow_t *self) noexcept nogil:
    """Give the pipe back, to be closed if there is something in it."""
    pipe_put(&loop.pipes, self.pipe)
    self.pipe = NULL


cdef void flow_clear(loop_t *loop, stores_t *stores, flow_t *self) noexcept nogil:
    self.raw_start = self.raw_end = 0
    self.out_start = self.out_end = 0
    self.head_start = self.head_end = 0
    self.prefix_start = self.prefix_end = 0
    self.tail_start = self.tail_end = 0
    self.keeps_head = self.trickles = False
    if self.pipe != NULL:
        let_go(loop, self)
    if self.trailers != NULL:
        slab_put(&stores.heads, self.trailers)
        self.trailers = NULL
    if self.coder != NULL:
        coder_put(&stores.coders, self.coder)
        self.coder = NULL
    flow_trim(loop, stores, self)


cdef void flow_trim(loop_t *loop, stores_t *stores, flow_t *self) noexcept nogil:
    if self.head != NULL and self.head_start == self.head_end and not self.keeps_head:
        slab_put(&stores.forwards, self.head)
        self.head = NULL
    if self.raw_start == self.raw_end and self.out_start == self.out_end:
        self.raw_start = self.raw_end = 0
        self.out_start = self.out_end = 0
        if self.buffer != NULL and self.trailers == NULL:
            buffer_put(loop, self.buffer)
            self.buffer = NULL


cdef size_t flow_room(loop_t *loop, flow_t *self) noexcept nogil:
    if self.buffer == NULL:
        self.buffer = buffer_get(loop)
        self.raw_start = self.raw_end = 0
        if self.buffer == NULL:
            return 0
    return BUFFER_SIZE - self.raw_end


cdef void flow_rewind(flow_t *self) noexcept nogil:
    cdef uint16_t size = self.raw_end - self.raw_start
    fp_assert(self.out_start == self.out_end)
    if self.raw_start == 0:
        return
    if size > 0:
        memmove(self.buffer, self.buffer + self.raw_start, size)
    self.raw_start = 0
    self.raw_end = size
    self.out_start = self.out_end = 0


cdef void frame_chunk(flow_t *self, size_t size) noexcept nogil:
    """Put a chunk's size line before the decoded bytes and its end after them."""
    cdef const uint8_t *digits = <const uint8_t *>b"0123456789abcdef"
    cdef uint8_t at = 6
    self.prefix[6] = c"\r"
    self.prefix[7] = c"\n"
    while size > 0:
        at -= 1
        self.prefix[at] = digits[size & 15]
        size = size >> 4
    self.prefix_start = at
    self.prefix_end = 8
    self.tail_start = 0
    self.tail_end = TAIL_CHUNK


cdef void end_body(flow_t *self) noexcept nogil:
    """Nothing more comes in."""
    self.is_whole = True
    if not self.as_chunks:
        return
    if self.tail_start == self.tail_end:
        self.tail_start = TAIL_CHUNK
    self.tail_end = TAIL_SIZE


cdef void copy_out(flow_t *self, uint16_t size) noexcept nogil:
    """What was decoded is for another one, too, as long as it has room."""
    cdef flow_t *copy = self.copy
    if size > BUFFER_SIZE - copy.raw_end:
        copy.overflows = True
        self.copy = NULL
        return
    memcpy(copy.buffer + copy.raw_end, self.buffer + self.out_start, size)
    copy.raw_end += size


cdef int flow_decode(stores_t *stores, flow_t *self) noexcept nogil:
    cdef size_t used = 0
    cdef size_t produced = 0
    cdef const uint8_t *rest
    cdef int code
    if self.trailers != NULL:
        return decode_trailers(stores, self)
    code = body_take(&self.body, self.buffer + self.raw_start, self.raw_end - self.raw_start,
                     &used, &produced)
    if code < 0:
        return -1
    self.out_start = self.raw_start
    self.out_end = self.raw_start + <uint16_t>produced
    self.raw_start += <uint16_t>used
    if self.copy != NULL and produced > 0:
        copy_out(self, <uint16_t>produced)
    if self.as_chunks and produced > 0:
        frame_chunk(self, produced)
    if code == BODY_TRAILERS:
        rest = self.buffer + self.raw_start
        if self.raw_end - self.raw_start >= 2 and rest[0] == c"\r" and rest[1] == c"\n":
            self.raw_start += 2
            end_body(self)
        else:
            self.trailers = <head_t *>slab_get(&stores.heads)
            if self.trailers == NULL:
                return -1
            head_init(self.trailers, HEAD_TRAILERS)
    elif code == BODY_DONE:
        end_body(self)
    return 0


cdef int decode_trailers(stores_t *stores, flow_t *self) noexcept nogil:
    """Go on with the field section after the last chunk; it is sent on when it is complete."""
    cdef int code
    flow_rewind(self)
    code = head_scan(self.trailers, self.buffer, self.raw_end)
    if code < 0:
        return -1
    if code != HEAD_DONE:
        return 0
    if self.body.is_bare:
        self.trailers.fields_count = 0
    if self.as_chunks or self.coder != NULL:
        if self.head == NULL:
            self.head = <uint8_t *>slab_get(&stores.forwards)
            if self.head == NULL:
                return -1
        self.head_start = 0
        self.head_end = <uint16_t>forward_trailers(
            self.head, self.trailers, self.buffer, self.coder != NULL)
        self.keeps_head = False
    self.raw_start = self.trailers.pos
    slab_put(&stores.heads, self.trailers)
    self.trailers = NULL
    self.is_whole = True
    return 0


cdef inline uint16_t taken(ssize_t *written, uint16_t size) noexcept nogil:
    """How much of a part of this size the kernel has taken."""
    cdef uint16_t n = <uint16_t>written[0] if written[0] < size else size
    written[0] -= n
    return n


cdef inline int add_part(iovec *parts, int n, const uint8_t *base, uint16_t start,
                         uint16_t end) noexcept nogil:
    if start == end:
        return n
    parts[n].iov_base = <void *>(base + start)
    parts[n].iov_len = end - start
    return n + 1


cdef ssize_t write_joined(loop_t *loop, endpoint_t *target, const iovec *parts,
                          int n) noexcept nogil:
    """Small parts are copied together: that costs less than the kernel's way with several."""
    cdef size_t size = 0
    cdef int i
    for i in range(n):
        memcpy(loop.scratch + size, parts[i].iov_base, parts[i].iov_len)
        size += parts[i].iov_len
    return endpoint_write(target, loop.scratch, size, False)


cdef ssize_t write_parts(loop_t *loop, flow_t *self, endpoint_t *target) noexcept nogil:
    """One system call for everything that waits."""
    cdef iovec parts[PARTS_MAX]
    cdef ssize_t written
    cdef size_t size = (self.head_end - self.head_start) + (self.out_end - self.out_start)
    cdef int n = add_part(parts, 0, self.head, self.head_start, self.head_end)
    n = add_part(parts, n, self.prefix, self.prefix_start, self.prefix_end)
    n = add_part(parts, n, self.buffer, self.out_start, self.out_end)
    n = add_part(parts, n, TAIL, self.tail_start, self.tail_end)
    if n == 1:
        written = endpoint_write(target, parts[0].iov_base, parts[0].iov_len, False)
    elif size <= JOINED_MAX:
        written = write_joined(loop, target, parts, n)
    else:
        written = endpoint_writev(target, parts, n)
    if written <= 0:
        return written
    self.moved += written
    self.head_start += taken(&written, self.head_end - self.head_start)
    self.prefix_start += <uint8_t>taken(&written, self.prefix_end - self.prefix_start)
    self.out_start += taken(&written, self.out_end - self.out_start)
    self.tail_start += <uint8_t>taken(&written, self.tail_end - self.tail_start)
    fp_assert(written == 0)
    return 1


cdef ssize_t write_pipe(flow_t *self, endpoint_t *target) noexcept nogil:
    cdef ssize_t written = endpoint_splice_out(target, self.pipe)
    if written > 0:
        self.moved += written
    return written


cdef int flow_flush(loop_t *loop, flow_t *self, endpoint_t *target) noexcept nogil:
    cdef ssize_t written
    while flow_waits(self):
        if target.ready & WRITABLE:
            # The pipe was empty when anything else was read, and is filled when all else is gone.
            if flow_holds(self):
                written = write_pipe(self, target)
            else:
                written = write_parts(loop, self, target)
            if written == FP_RESET:
                return FP_RESET
        if flow_waits(self) and not target.ready & WRITABLE:
            return FP_AGAIN if loop_watch(loop, target, EPOLLOUT) == 0 else FP_RESET
    return FP_DONE


cdef pump_t flow_fill(loop_t *loop, flow_t *self, endpoint_t *source) noexcept nogil:
    cdef size_t room = flow_room(loop, self)
    cdef ssize_t n
    if room == 0:
        return PUMP_CUT
    n = endpoint_read(source, self.buffer + self.raw_end, room)
    if n == FP_AGAIN:
        return PUMP_WAIT
    if n < 0:
        return PUMP_CUT
    if n == 0:
        if self.body.kind != BODY_UNTIL_CLOSE:
            return PUMP_CUT
        end_body(self)
    self.raw_end += <uint16_t>n
    return PUMP_DONE


cdef bint wants_pipe(loop_t *loop, flow_t *self) noexcept nogil:
    """Whether what comes next goes through a pipe; if so, there is one."""
    if self.trickles or self.as_chunks:
        return False
    if self.body.kind == BODY_LENGTH:
        if self.body.remaining < SPLICE_FROM and self.pipe == NULL:
            return False
    elif self.body.kind != BODY_UNTIL_CLOSE:
        return False
    if self.pipe == NULL:
        self.pipe = pipe_get(&loop.pipes)
    return self.pipe != NULL


cdef pump_t fill_pipe(flow_t *self, endpoint_t *source, ssize_t *left) noexcept nogil:
    """Read once into the pipe; PUMP_DONE: there is something to write, or the body is over."""
    cdef size_t size = self.pipe.size
    cdef ssize_t n
    if self.body.kind == BODY_LENGTH and self.body.remaining < size:
        size = <size_t>self.body.remaining
    n = endpoint_splice_in(source, self.pipe, size)
    if n == FP_AGAIN:
        return PUMP_WAIT
    if n < 0:
        return PUMP_CUT
    if n == 0:
        if self.body.kind != BODY_UNTIL_CLOSE:
            return PUMP_CUT
        end_body(self)
    left[0] -= n * TURN_SIZE // SPLICED_TURN_SIZE
    self.trickles = n < SPLICED_MIN
    if self.body.kind == BODY_LENGTH:
        self.body.remaining -= <size_t>n
        if self.body.remaining == 0:
            end_body(self)
            endpoint_ask(source)        # or a backend's socket could not go back to the pool
    return PUMP_DONE


cdef pump_t fill_buffer(loop_t *loop, flow_t *self, endpoint_t *source,
                        ssize_t *left) noexcept nogil:
    """The same into the buffer; PUMP_DONE: there is something to decode or write."""
    cdef uint16_t before = self.raw_end
    cdef pump_t outcome = flow_fill(loop, self, source)
    left[0] -= BUFFER_SIZE
    if self.raw_end - before == BUFFER_SIZE:
        self.trickles = False
    return outcome


cdef pump_t flow_pump(loop_t *loop, stores_t *stores, flow_t *self, endpoint_t *source,
                      endpoint_t *target) noexcept nogil:
    cdef pump_t outcome = pump(loop, stores, self, source, target)
    if self.pipe != NULL and not flow_holds(self):
        let_go(loop, self)              # for others
    return outcome


cdef pump_t pump(loop_t *loop, stores_t *stores, flow_t *self, endpoint_t *source,
                 endpoint_t *target) noexcept nogil:
    cdef int code
    cdef ssize_t left = TURN_SIZE
    cdef pump_t outcome
    while True:
        if flow_waits(self):
            code = flow_flush(loop, self, target)
            if code != FP_DONE:
                return PUMP_STUCK if code == FP_RESET else PUMP_WAIT
        flow_trim_head(stores, self)
        if self.is_whole:
            return PUMP_DONE
        if self.raw_start == self.raw_end:
            self.raw_start = self.raw_end = self.out_start = self.out_end = 0
        elif self.trailers == NULL or self.trailers.pos < self.raw_end - self.raw_start:
            if flow_decode(stores, self) < 0:
                return PUMP_MALFORMED
            continue
        outcome = PUMP_WAIT
        if source.ready & READABLE:
            if left <= 0:
                loop_again(loop, source)
                return PUMP_WAIT
            if self.raw_start == self.raw_end and wants_pipe(loop, self):
                outcome = fill_pipe(self, source, &left)
            else:
                outcome = fill_buffer(loop, self, source, &left)
        if outcome == PUMP_WAIT:
            flow_trim(loop, stores, self)
            return PUMP_WAIT if loop_watch(loop, source, EPOLLIN) == 0 else PUMP_CUT
        if outcome == PUMP_CUT:
            return PUMP_CUT


cdef inline void flow_trim_head(stores_t *stores, flow_t *self) noexcept nogil:
    """A head that is written is not needed while the body streams."""
    if self.head != NULL and not self.keeps_head:
        slab_put(&stores.forwards, self.head)
        self.head = NULL
        self.head_start = self.head_end = 0
