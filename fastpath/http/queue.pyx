"""Requests that wait for a place: a service with a limit of connections has them taken.

Places are counted over all workers and together with the service's own TCP connections. Each worker
has a queue of its own for each service, first come first served, as long as the limit. Who leaves a
place calls the first in the queue; what other workers and TCP connections leave is found by looking
again every few milliseconds while anybody waits.
"""

from libc.stdint cimport int64_t, uint16_t

from fastpath.abi cimport MAX_SERVICES
from fastpath.atomics cimport add_shared, gauge, load_signed
from fastpath.http.http1 cimport REFUSE_QUEUE_FULL
from fastpath.http.state cimport (
    CLIENT_WAITING, STEP_GO, STEP_WAIT, deadline_of, http_of, http_t, queue_t,
)
from fastpath.loop cimport loop_again, loop_arm, loop_watch
from fastpath.memory.wheel cimport timeout_armed, timeout_t
from fastpath.sys_linux cimport EPOLLIN

cdef enum:
    LOOK_MS = 10


cdef bint has_place(loop_t *loop, client_t *client, const service_t *service) noexcept nogil:
    """Take a place, if there is one."""
    cdef int64_t n_taken
    if service == NULL or service.connections_max == 0:
        return True
    n_taken = add_shared(&loop.common.service_open[service.slot], 1)
    if n_taken > service.connections_max:
        add_shared(&loop.common.service_open[service.slot], -1)
        return False
    client.place = service.slot
    client.has_place = True
    return True


cdef void call_first(loop_t *loop, uint16_t slot) noexcept nogil:
    cdef client_t *first = http_of(loop).queues[slot].first
    if first != NULL:
        loop_again(loop, &first.io)


cdef void on_look(loop_t *loop, timeout_t *timeout) noexcept nogil:
    cdef http_t *http = http_of(loop)
    cdef int slot
    if load_signed(&http.counters.waiting) == 0:
        return
    for slot in range(MAX_SERVICES):
        call_first(loop, <uint16_t>slot)
    loop_arm(loop, timeout, on_look, LOOK_MS)


cdef int queue_enter(loop_t *loop, client_t *client, const service_t *service) noexcept nogil:
    cdef http_t *http = http_of(loop)
    cdef queue_t *queue
    if service == NULL or service.connections_max == 0:
        return STEP_GO
    queue = &http.queues[service.slot]
    if queue.first == NULL and has_place(loop, client, service):
        return STEP_GO
    if queue.n >= service.connections_max:
        return -REFUSE_QUEUE_FULL
    client.ahead = queue.last
    client.behind = NULL
    if queue.last != NULL:
        queue.last.behind = client
    else:
        queue.first = client
    queue.last = client
    queue.n += 1
    gauge(&http.counters.waiting, 1)
    client.place = service.slot
    client.is_waiting = True
    client.state = CLIENT_WAITING
    client.deadline_ms = deadline_of(loop, service.connect_timeout_ms)
    loop_watch(loop, &client.io, EPOLLIN)       # who breaks off makes room
    if not timeout_armed(&http.look):
        loop_arm(loop, &http.look, on_look, LOOK_MS)
    return STEP_WAIT


cdef void step_out(http_t *http, client_t *client) noexcept nogil:
    cdef queue_t *queue = &http.queues[client.place]
    if client.ahead != NULL:
        client.ahead.behind = client.behind
    else:
        queue.first = client.behind
    if client.behind != NULL:
        client.behind.ahead = client.ahead
    else:
        queue.last = client.ahead
    queue.n -= 1
    gauge(&http.counters.waiting, -1)
    client.is_waiting = False


cdef int queue_called(loop_t *loop, client_t *client) noexcept nogil:
    cdef http_t *http = http_of(loop)
    cdef uint16_t slot = client.place
    if http.queues[slot].first != client:
        return STEP_WAIT
    if not has_place(loop, client, loop.snapshot.service_of_slot[slot]):
        return STEP_WAIT
    step_out(http, client)
    call_first(loop, slot)              # there may be more room
    return STEP_GO


cdef void queue_leave(loop_t *loop, client_t *client) noexcept nogil:
    cdef uint16_t slot = client.place
    if client.is_waiting:
        step_out(http_of(loop), client)
    elif client.has_place:
        client.has_place = False
        add_shared(&loop.common.service_open[slot], -1)
    else:
        return
    call_first(loop, slot)
