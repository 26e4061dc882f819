"""Bytes both ways between two sockets: TCP streams, and HTTP tunnels after an upgrade."""

from libc.string cimport memcpy

from fastpath.abi cimport BUFFER_SIZE, FP_AGAIN, FP_OK
from fastpath.atomics cimport count
from fastpath.loop cimport (
    READABLE, WRITABLE, buffer_get, buffer_put, endpoint_end, endpoint_read, endpoint_write,
    loop_again, loop_arm, loop_close, loop_reset, loop_watch,
)
from fastpath.memory.wheel cimport timeout_disarm
from fastpath.sys_linux cimport EPOLLIN, EPOLLOUT


cdef enum:
    READS_PER_TURN = 8          # 128 KiB, then the others get their turn
    LINGER_MS = 2000            # for a peer that goes on sending what nobody takes


cdef void _give_up_writing(loop_t *loop, relay_t *relay) noexcept nogil:
    """The target takes no more. Go on reading, or what it sent before might be lost to a reset."""
    if relay.waiting != NULL:
        buffer_put(loop, relay.waiting)
        relay.waiting = NULL
    relay.state = RELAY_DROPPING


cdef bint _flush(
    loop_t *loop, relay_t *relay, endpoint_t *target, uint64_t *counter
) noexcept nogil:
    """Write what waits; whether all is gone."""
    cdef ssize_t n = FP_AGAIN
    if target.ready & WRITABLE:
        n = endpoint_write(target, relay.waiting + relay.start, relay.end - relay.start, False)
    if n < 0 and n != FP_AGAIN:
        _give_up_writing(loop, relay)
        return False
    if n > 0:
        relay.start += <uint16_t>n
        count(counter, <uint64_t>n)
    if relay.start < relay.end:
        loop_watch(loop, target, EPOLLOUT)
        return False
    buffer_put(loop, relay.waiting)
    relay.waiting = NULL
    return True


cdef void _forward(
    loop_t *loop, relay_t *relay, endpoint_t *target, uint64_t *counter, ssize_t size
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
    count(counter, <uint64_t>n)
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


cdef bint _relay(
    loop_t *loop,
    relay_t *relay,
    const relay_t *opposite,
    endpoint_t *source,
    endpoint_t *target,
    uint64_t *counter,
) noexcept nogil:
    """Move what can be moved now in one direction; whether anything came or went."""
    cdef int reads = 0
    cdef ssize_t n
    cdef bint moved = False
    while relay.state <= RELAY_DROPPING:
        if relay.waiting != NULL:
            moved = True
            if not _flush(loop, relay, target, counter):
                if relay.state == RELAY_OPEN:
                    break
                continue
        if _finish(relay, opposite, target) or not source.ready & READABLE:
            break
        if reads == READS_PER_TURN:
            loop_again(loop, source)
            break
        reads += 1
        n = endpoint_read(source, loop.scratch, BUFFER_SIZE)
        if n == FP_AGAIN:
            break
        moved = True
        if n == 0:
            relay.source_ended = True
        elif n < 0:
            relay.source_failed = True
        elif relay.state == RELAY_OPEN:
            _forward(loop, relay, target, counter, n)
    return moved


cdef void _run(loop_t *loop, pair_t *pair) noexcept nogil:
    """Move bytes both ways, then see whether the pair has come to its end."""
    cdef relay_t *inward = &pair.inward
    cdef relay_t *outward = &pair.outward
    cdef uint16_t slot = pair.backend_slot
    if _relay(
        loop, inward, outward, pair.client, pair.backend,
        &loop.counters.backends[slot].bytes_in,
    ):
        pair.moved_ms = loop.now_ms
    if _relay(
        loop, outward, inward, pair.backend, pair.client,
        &loop.counters.backends[slot].bytes_out,
    ):
        pair.moved_ms = loop.now_ms
    if inward.state == RELAY_FAILED or outward.state == RELAY_FAILED:
        pair_stop(loop, pair, True)
    elif inward.state == RELAY_ENDED and outward.state == RELAY_ENDED:
        pair_stop(loop, pair, False)
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
        pair_stop(loop, pair, False)
    else:
        loop_arm(loop, timeout, _timed_out, <uint32_t>(pair.idle_timeout_ms - idle_ms))


cdef void pair_start(loop_t *loop, pair_t *pair) noexcept nogil:
    pair.client.on_event = _on_event
    pair.client.owner = pair
    pair.backend.on_event = _on_event
    pair.backend.owner = pair
    pair.timeout.owner = pair
    pair.moved_ms = loop.now_ms
    if (
        loop_watch(loop, pair.client, EPOLLIN) != FP_OK
        or loop_watch(loop, pair.backend, EPOLLIN) != FP_OK
    ):
        pair_stop(loop, pair, True)
        return
    if pair.idle_timeout_ms != 0:
        loop_arm(loop, &pair.timeout, _timed_out, pair.idle_timeout_ms)
    _run(loop, pair)


cdef void pair_stop(loop_t *loop, pair_t *pair, bint reset) noexcept nogil:
    timeout_disarm(&pair.timeout)
    if pair.inward.waiting != NULL:
        buffer_put(loop, pair.inward.waiting)
        pair.inward.waiting = NULL
    if pair.outward.waiting != NULL:
        buffer_put(loop, pair.outward.waiting)
        pair.outward.waiting = NULL
    if reset:
        loop_reset(loop, pair.client)
        loop_reset(loop, pair.backend)
    else:
        loop_close(loop, pair.client)
        loop_close(loop, pair.backend)
    pair.on_end(loop, pair)
