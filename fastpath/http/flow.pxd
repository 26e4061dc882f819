"""One direction of an exchange: bytes come in from one socket, are decoded, and go out framed anew.

What is to be written is, in this order: what is left of `head`, of `prefix` (a chunk's size line),
of the decoded bytes buffer[out_start:out_end], of a tail (the chunk's end, the last chunk), and of
`pipe`: what is left of a long body whose length is known does not come into user space (splice(2)).
Nothing is read while any of it waits: that is the back-pressure. buffer[raw_start:raw_end] was read
and not decoded yet; a request's may hold the next request.
"""

from libc.stdint cimport uint8_t, uint16_t, uint64_t

from fastpath.http.coders cimport coder_t, coders_t
from fastpath.http.framing cimport body_t
from fastpath.http.http1 cimport head_t
from fastpath.loop cimport endpoint_t, loop_t
from fastpath.memory.pipes cimport pipe_t
from fastpath.memory.slab cimport slab_t

# What flow_pump returns.
cdef enum pump_t:
    PUMP_DONE                   # everything was written
    PUMP_WAIT                   # an event will come
    PUMP_MALFORMED              # the body's framing is wrong
    PUMP_CUT                    # the source ended or broke before the body was complete
    PUMP_STUCK                  # the target broke
    PUMP_TROUBLE                # the body could not be compressed on (coded.pxd)

# Memory that flows take turns with. Two of each for a client, so that it never runs out; but coders
# are few.
cdef struct stores_t:
    slab_t forwards             # FORWARD_SIZE_MAX bytes: a head to be written
    slab_t heads                # head_t
    coders_t coders

cdef struct flow_t:
    body_t body                 # how what comes in is framed
    uint8_t *buffer             # owned, from loop.buffers; NULL: nothing was read
    uint8_t *head               # owned, from stores.forwards; NULL: there is none
    head_t *trailers            # owned, from stores.heads; while a trailer section is read
    flow_t *copy                # borrowed: its buffer takes what is decoded, too; NULL: none does
    pipe_t *pipe                # owned, from loop.pipes; empty between turns: NULL
    coder_t *coder              # owned, from stores.coders; NULL: the body goes out as it came
    uint64_t moved              # bytes written; the caller takes them and sets 0
    uint16_t raw_start
    uint16_t raw_end
    uint16_t out_start
    uint16_t out_end
    uint16_t head_start
    uint16_t head_end
    uint8_t prefix[8]
    uint8_t prefix_start
    uint8_t prefix_end
    uint8_t tail_start          # of TAIL in flow.pyx
    uint8_t tail_end
    uint8_t as_chunks           # goes out in chunks
    uint8_t trickles            # comes in small pieces, which are cheaper to copy
    uint8_t is_whole            # the body has come in completely
    uint8_t keeps_head          # the head may have to be written again: keep it
    uint8_t overflows           # as a copy: there was no room for all of it

cdef inline bint flow_holds(const flow_t *self) noexcept nogil:
    """Whether bytes are in the pipe."""
    return self.pipe != NULL and self.pipe.held > 0

cdef inline bint flow_waits(const flow_t *self) noexcept nogil:
    """Whether something is to be written."""
    return (self.head_start < self.head_end or self.out_start < self.out_end
            or self.prefix_start < self.prefix_end or self.tail_start < self.tail_end
            or flow_holds(self))

# Empty, with memory given back; bytes that were read and not decoded are lost.
cdef void flow_clear(loop_t *loop, stores_t *stores, flow_t *self) noexcept nogil

# Give back what holds nothing now.
cdef void flow_trim(loop_t *loop, stores_t *stores, flow_t *self) noexcept nogil

# The buffer's unused end, taken from the loop's pool when there is none; 0 bytes when it is full.
cdef size_t flow_room(loop_t *loop, flow_t *self) noexcept nogil

# Move what was not decoded to the front, so that a new head has all the room.
cdef void flow_rewind(flow_t *self) noexcept nogil

# Decode what was read, as far as the body goes. Nothing may wait to be written but a head. 0, or -1
# when it is malformed.
cdef int flow_decode(stores_t *stores, flow_t *self) noexcept nogil

# Read once, behind what is in the buffer: PUMP_DONE, PUMP_WAIT (nothing has come) or PUMP_CUT.
cdef pump_t flow_fill(loop_t *loop, flow_t *self, endpoint_t *source) noexcept nogil

# Write what waits: FP_DONE, FP_AGAIN (`target` is watched), FP_RESET.
cdef int flow_flush(loop_t *loop, flow_t *self, endpoint_t *target) noexcept nogil

# Move as much as goes now; both ends are watched when it returns PUMP_WAIT.
cdef pump_t flow_pump(loop_t *loop, stores_t *stores, flow_t *self, endpoint_t *source,
                      endpoint_t *target) noexcept nogil
