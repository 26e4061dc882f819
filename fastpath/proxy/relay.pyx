"""Bytes both ways between two sockets: TCP streams, and HTTP tunnels after an upgrade."""

from libc.string cimport memcpy

from fastpath.abi cimport (
    BUFFER_SIZE, END_BACKEND, END_BACKEND_RESET, END_CLIENT, END_CLIENT_RESET, END_EVICTED,
    END_IDLE, END_TROUBLE, FP_AGAIN, FP_OK, fp_assert,
)
from fastpath.atomics cimport count
from fastpath.loop cimport (
    READABLE, WRITABLE, ages_of_pairs_t, buffer_get, buffer_put, endpoint_end, endpoint_read,
    endpoint_splice_in, endpoint_splice_out, endpoint_write, loop_again, loop_arm, loop_close,
    loop_reset, loop_watch,
)
from fastpath.memory.pipes cimport pipe_get, pipe_put
from fastpath.memory.wheel cimport timeout_disarm
from fastpath.proxy.outlier cimport outlier_answered
from fastpath.sys_linux cimport EPOLLIN, EPOLLOUT


cdef enum:
    TURN_SIZE = 8 * BUFFER_SIZE     # read in one turn and direction, then the others get theirs
    SPLICED_TURN_SIZE = 1 << 19     # the same of what costs no copy
    STREAM_READS = 3                # full reads in a row make a stream
    SPLICED_MIN = 4096              # less at a time is no stream any more: copying is cheaper
    LINGER_MS = 2000                # for a peer that goes on sending what nobody takes
    LISTED_MS = 1000                # how exact the order by age is


# ---- in which order pairs would make room ----

cdef inline ages_of_pairs_t *_list(loop_t *loop, pair_t *pair) noexcept nogil:
    return &loop.pairs[pair.kind]


cdef void _enlist(loop_t *loop, pair_t *pair) noexcept nogil:
    """Put it into its list as the newest."""
    cdef ages_of_pairs_t *ages = _list(loop, pair)
    cdef pair_t *newest = <pair_t *>ages.newest
    pair.listed_ms = pair.moved_ms
    pair.newer = NULL
    pair.older = newest
    if newest != NULL:
        newest.newer = pair
    else:
        ages.oldest = pair
    ages.newest = pair


cdef void _delist(loop_t *loop, pair_t *pair) noexcept nogil:
    cdef ages_of_pairs_t *ages = _list(loop, pair)
    if pair.newer != NULL:
        pair.newer.older = pair.older
    else:
        ages.newest = pair.older
    if pair.older != NULL:
        pair.older.newer = pair.newer
    else:
        ages.oldest = pair.newer


cdef bint pair_evict(loop_t *loop, uint32_t idle_ms) noexcept nogil:
    cdef pair_t *oldest
    cdef int kind
    for kind in range(<int>PAIRS_COUNT):
        oldest = <pair_t *>loop.pairs[kind].oldest
        # Its bytes may have moved after the list was told last, but by LISTED_MS at most.
        if oldest != NULL and loop.now_ms - oldest.moved_ms >= idle_ms:
            pair_stop(loop, oldest, True, END_EVICTED)
            return True
    return False


cdef inline void _moved(loop_t *loop, pair_t *pair) noexcept nogil:
    """Bytes have come or gone."""
    cdef bint is_new = pair.kind == PAIRS_SILENT and pair.inward.moved > 0
    pair.moved_ms = loop.now_ms
    if is_new or pair.moved_ms - pair.listed_ms >= LISTED_MS:
        _delist(loop, pair)
        if is_new:
            pair.kind = PAIRS_HEARD
        _enlist(loop, pair)


# ---- one direction ----

cdef void _let_go(loop_t *loop, relay_t *relay) noexcept nogil:
    """Give back what holds bytes, and the bytes with it."""
    if relay.waiting != NULL:
        buffer_put(loop, relay.waiting)
        relay.waiting = NULL
    if relay.pipe != NULL:
        pipe_put(&loop.pipes, relay.pipe)
        relay.pipe = NULL


cdef void _give_up_writing(loop_t *loop, relay_t *relay) noexcept nogil:
    """The target takes no more. Go on reading, or what it sent before might be lost to a reset."""
    _let_go(loop, relay)
    relay.state = RELAY_DROPPING


cdef inline void _written(relay_t *relay, ssize_t n) noexcept nogil:
    relay.moved += <uint64_t>n
    count(relay.counter, <uint64_t>n)


cdef bint _flush_buffer(loop_t *loop, relay_t *relay, endpoint_t *target) noexcept nogil:
    """Write what waits in the buffer; whether all is gone."""
    cdef ssize_t n = FP_AGAIN
    if target.ready & WRITABLE:
        n = endpoint_write(target, relay.waiting + relay.start, relay.end - relay.start, False)
    if n < 0 and n != FP_AGAIN:
        _give_up_writing(loop, relay)
        return False
    if n > 0:
        relay.start += <uint16_t>n
        _written(relay, n)
    if relay.start < relay.end:
        loop_watch(loop, target, EPOLLOUT)
        return False
    _let_go(loop, relay)
    return True


cdef bint _flush_pipe(loop_t *loop, relay_t *relay, endpoint_t *target) noexcept nogil:
    """Move on what waits in the pipe; whether all is gone. The pipe stays."""
    cdef ssize_t n
    while relay.pipe.held > 0:
        n = FP_AGAIN
        if target.ready & WRITABLE:
            n = endpoint_splice_out(target, relay.pipe)
        if n == FP_AGAIN:
            loop_watch(loop, target, EPOLLOUT)
            return False
        if n < 0:
            _give_up_writing(loop, relay)
            return False
        _written(relay, n)
    return True


cdef bint _flush(loop_t *loop, relay_t *relay, endpoint_t *target) noexcept nogil:
    """Write what waits, if anything; whether nothing does any more."""
    if relay.waiting != NULL:
        return _flush_buffer(loop, relay, target)
    if relay.pipe != NULL:
        return _flush_pipe(loop, relay, target)
    return True


cdef void _forward(
    loop_t *loop, relay_t *relay, endpoint_t *target, ssize_t size
) noexcept nogil:
    """Write `size` bytes of the scratch, and keep what the target does not take now."""
    cdef ssize_t n = FP_AGAIN
    if target.ready & WRITABLE:
        n = endpoint_write(target, loop.scratch, size, False)
    if n == FP_AGAIN:
        n = 0
    if n < 0:
        _give_up_writing(loop, relay)
        return
    _written(relay, n)
    if n == size:
        return
    relay.waiting = buffer_get(loop)
    if relay.waiting == NULL:           # cannot be: two for each client connection
        relay.source_failed = True
        return
    memcpy(relay.waiting, loop.scratch + n, size - n)
    relay.start = 0
    relay.end = <uint16_t>(size - n)
    loop_watch(loop, target, EPOLLOUT)


cdef bint _finish(
    relay_t *relay, const relay_t *opposite, endpoint_t *target
) noexcept nogil:
    """Pass on the source's end once nothing waits; whether there is one."""
    if relay.source_failed:
        relay.state = RELAY_FAILED
        return True
    if relay.source_ended:
        if relay.state == RELAY_OPEN and opposite.state != RELAY_ENDED:
            endpoint_end(target)        # else closing the pair says so
        relay.state = RELAY_ENDED
        return True
    return False


cdef ssize_t _copy(loop_t *loop, relay_t *relay, endpoint_t *source,
                   endpoint_t *target) noexcept nogil:
    """Read once and write that; what endpoint_read returned."""
    cdef ssize_t n = endpoint_read(source, loop.scratch, BUFFER_SIZE)
    if n < BUFFER_SIZE:
        relay.full_reads = 0
    elif relay.full_reads < STREAM_READS:
        relay.full_reads += 1
    if n > 0 and relay.state == RELAY_OPEN:
        _forward(loop, relay, target, n)
    return n


cdef bint _has_pipe(loop_t *loop, relay_t *relay) noexcept nogil:
    """Whether what is read next goes through a pipe."""
    if relay.full_reads < STREAM_READS or relay.state != RELAY_OPEN:
        return False
    if relay.pipe == NULL:
        relay.pipe = pipe_get(&loop.pipes)
    return relay.pipe != NULL


cdef ssize_t _splice(relay_t *relay, endpoint_t *source) noexcept nogil:
    """Fill the pipe; what endpoint_splice_in returned."""
    cdef ssize_t n = endpoint_splice_in(source, relay.pipe, relay.pipe.size)
    if 0 < n < SPLICED_MIN:
        relay.full_reads = 0
    return n


cdef bint _relay(
    loop_t *loop,
    relay_t *relay,
    const relay_t *opposite,
    endpoint_t *source,
    endpoint_t *target,
) noexcept nogil:
    """Move what can be moved now in one direction; whether anything came or went."""
    cdef uint64_t before = relay.moved
    cdef ssize_t left = TURN_SIZE
    cdef ssize_t n
    cdef bint came = False
    while relay.state <= RELAY_DROPPING:
        if not _flush(loop, relay, target):
            if relay.state == RELAY_OPEN:
                return came or relay.moved != before
            continue
        if _finish(relay, opposite, target) or not source.ready & READABLE:
            break
        if left <= 0:
            loop_again(loop, source)
            break
        if _has_pipe(loop, relay):
            n = _splice(relay, source)
            left -= n * TURN_SIZE // SPLICED_TURN_SIZE
        else:
            n = _copy(loop, relay, source, target)
            left -= BUFFER_SIZE
        if n == FP_AGAIN:
            break
        came = True
        if n == 0:
            relay.source_ended = True
        elif n < 0:
            relay.source_failed = True
    if relay.pipe != NULL:
        _let_go(loop, relay)            # for others: nothing is in it
    return came or relay.moved != before


# ---- both ----

cdef void _note_end(pair_t *pair) noexcept nogil:
    """Remember who ended it: the first to end in order, unless somebody broke it off."""
    if pair.inward.source_failed:
        pair.end = END_CLIENT_RESET
    elif pair.outward.source_failed:
        pair.end = END_BACKEND_RESET
    elif not pair.is_ending:
        pair.end = END_BACKEND if pair.outward.source_ended else END_CLIENT
    pair.is_ending = True


cdef void _run(loop_t *loop, pair_t *pair) noexcept nogil:
    """Move bytes both ways, then see whether the pair has come to its end."""
    cdef relay_t *inward = &pair.inward
    cdef relay_t *outward = &pair.outward
    cdef bint moved = _relay(loop, inward, outward, pair.client, pair.backend)
    if _relay(loop, outward, inward, pair.backend, pair.client) or moved:
        _moved(loop, pair)
    if outward.moved > 0 and not pair.is_answered:
        pair.is_answered = True
        outlier_answered(loop, pair.backend_slot)
    if inward.source_ended or outward.source_ended or inward.source_failed or outward.source_failed:
        _note_end(pair)
    elif inward.state == RELAY_OPEN and outward.state == RELAY_OPEN:
        return
    if inward.state == RELAY_FAILED or outward.state == RELAY_FAILED:
        pair_stop(loop, pair, True, pair.end)
    elif inward.state == RELAY_ENDED and outward.state == RELAY_ENDED:
        pair_stop(loop, pair, False, pair.end)
    elif inward.state != RELAY_OPEN and outward.state != RELAY_OPEN and not pair.lingering:
        pair.lingering = True
        loop_arm(loop, &pair.timeout, _timed_out, LINGER_MS)


cdef void _on_event(loop_t *loop, endpoint_t *endpoint) noexcept nogil:
    _run(loop, <pair_t *>endpoint.owner)


cdef void _timed_out(loop_t *loop, timeout_t *timeout) noexcept nogil:
    """Idle for too long? Moving bytes does not touch the timer; it looks when it fires."""
    cdef pair_t *pair = <pair_t *>timeout.owner
    cdef uint64_t idle_ms = loop.now_ms - pair.moved_ms
    if pair.lingering or idle_ms >= pair.idle_timeout_ms:
        pair_stop(loop, pair, False, END_IDLE)
    else:
        loop_arm(loop, timeout, _timed_out, <uint32_t>(pair.idle_timeout_ms - idle_ms))


cdef void pair_start(loop_t *loop, pair_t *pair) noexcept nogil:
    pair.client.on_event = _on_event
    pair.client.owner = pair
    pair.backend.on_event = _on_event
    pair.backend.owner = pair
    pair.timeout.owner = pair
    pair.moved_ms = loop.now_ms
    pair.inward.counter = &loop.counters.backends[pair.backend_slot].bytes_in
    pair.outward.counter = &loop.counters.backends[pair.backend_slot].bytes_out
    pair.kind = PAIRS_SILENT
    _enlist(loop, pair)
    if (
        loop_watch(loop, pair.client, EPOLLIN) != FP_OK
        or loop_watch(loop, pair.backend, EPOLLIN) != FP_OK
    ):
        pair_stop(loop, pair, True, END_TROUBLE)
        return
    if pair.idle_timeout_ms != 0:
        loop_arm(loop, &pair.timeout, _timed_out, pair.idle_timeout_ms)
    _run(loop, pair)


cdef void pair_stop(loop_t *loop, pair_t *pair, bint reset, uint8_t end) noexcept nogil:
    fp_assert(pair.inward.counter != NULL)
    if not pair.is_ending:
        pair.end = end
    timeout_disarm(&pair.timeout)
    _delist(loop, pair)
    _let_go(loop, &pair.inward)
    _let_go(loop, &pair.outward)
    if reset:
        loop_reset(loop, pair.client)
        loop_reset(loop, pair.backend)
    else:
        loop_close(loop, pair.client)
        loop_close(loop, pair.backend)
    pair.on_end(loop, pair)
