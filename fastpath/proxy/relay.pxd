"""Bytes both ways between two sockets: TCP streams, and HTTP tunnels after an upgrade.

Idle, a pair holds no buffer: bytes go from read to write through the loop's scratch, and only what
could not be written waits in a pooled buffer; nothing more is read in that direction until it has
gone. A direction that streams is spliced through a pooled pipe instead (splice(2)), which holds
what could not be written in the same way. The end of one direction is passed on when all before it
was written, and the other goes on. A reset is passed on as a reset, after what came before it.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastpath.loop cimport endpoint_t, loop_t
from fastpath.memory.pipes cimport pipe_t
from fastpath.memory.wheel cimport timeout_t


cdef enum relay_state_t:
    RELAY_OPEN
    RELAY_DROPPING              # the target takes no more; what still comes is thrown away
    RELAY_ENDED                 # nothing more to read, and the target knows (or is beyond caring)
    RELAY_FAILED                # the source was reset, and all before it was written


cdef struct relay_t:            # one direction
    uint8_t *waiting            # owned, from the loop's buffers; NULL: nothing waits there
    pipe_t *pipe                # owned, from the loop's pipes, and not empty between turns; or NULL
    uint64_t *counter           # of the worker: bytes written
    uint64_t moved              # bytes written
    uint16_t start              # what waits is waiting[start:end]
    uint16_t end
    uint8_t state
    uint8_t source_ended
    uint8_t source_failed
    uint8_t full_reads          # in a row: how much it looks like a stream


cdef enum:
    EVICT_IDLE_MS = 1000        # who was active in this time keeps its connection


cdef enum:                      # indexes of loop_t.pairs
    PAIRS_SILENT                # the client has not sent anything yet: anybody can open these
    PAIRS_HEARD
    PAIRS_COUNT


ctypedef void (*pair_end_fn)(loop_t *loop, pair_t *pair) noexcept nogil


cdef struct pair_t:
    endpoint_t *client          # borrowed until `on_end`
    endpoint_t *backend
    pair_end_fn on_end          # both sockets are closed and the pair holds nothing any more
    void *owner                 # for `on_end`; borrowed
    pair_t *newer               # in the list of its kind in loop_t.pairs, by when bytes last moved
    pair_t *older
    timeout_t timeout
    uint64_t moved_ms           # when bytes last moved
    uint64_t listed_ms          # the same as far as the list knows
    uint32_t idle_timeout_ms    # 0: none
    uint16_t backend_slot       # whose bytes are counted
    uint8_t lingering
    uint8_t kind                # PAIRS_*
    uint8_t end                 # END_*: what ended it
    uint8_t is_ending           # `end` is known
    uint8_t is_answered         # the backend has sent something
    relay_t inward              # client to backend
    relay_t outward


# Take over two connected sockets (their on_event and owner too) and begin. `pair` is zeroed but for
# client, backend, on_end, owner, idle_timeout_ms and backend_slot; bytes that were read already may
# have been put into `inward.waiting` or `outward.waiting`. `on_end` may come before this returns.
cdef void pair_start(loop_t *loop, pair_t *pair) noexcept nogil
# Close both sockets, with a reset if asked, give all back and call `on_end`. `end`: END_*, unless
# an earlier one is known.
cdef void pair_stop(loop_t *loop, pair_t *pair, bint reset, uint8_t end) noexcept nogil
# Stop the pair whose bytes last moved the longest ago, one whose client was never heard before any
# other; whether there was one that was silent for `idle_ms` at least.
cdef bint pair_evict(loop_t *loop, uint32_t idle_ms) noexcept nogil
