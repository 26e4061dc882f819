"""One thread, one epoll loop: accepts, and lets the protocols work.

Life: the engine makes a worker_t, publishes a first snapshot, runs worker_run in a thread of its
own, sets `stop`, wakes it, joins the thread, frees it. Before the thread runs the engine calls
worker_pick_up in its stead.
"""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

from fastpath.abi cimport MAX_LISTENERS, PROTOCOL_COUNT, common_t, counters_t, snapshot_t
from fastpath.loop cimport endpoint_t, loop_t, protocol_t
from fastpath.memory.ring cimport ring_t
from fastpath.memory.slab cimport slab_t
from fastpath.memory.wheel cimport timeout_t


cdef struct shared_t:           # what all workers see; owned by the engine
    snapshot_t *snapshot        # store_pointer by the engine, load_pointer by the workers
    uint64_t stop               # store_release, load_acquire
    uint64_t hash_key[2]
    common_t *common            # owned
    protocol_t protocols[PROTOCOL_COUNT]


cdef struct worker_listener_t:
    endpoint_t endpoint         # its fd is owned by this worker from the moment it picked it up
    timeout_t pause             # out of descriptors, or over the service's rate: accept later
    uint16_t slot


cdef enum:
    INBOX_SIZE = 64


cdef struct handed_t:           # two connected sockets to relay between; owned
    int client
    int backend
    uint32_t idle_timeout_ms


cdef struct worker_t:
    loop_t loop
    shared_t *shared            # borrowed
    endpoint_t wake             # an eventfd
    int reserve                 # a descriptor to let go of when there is no other
    uint64_t seen               # generation picked up last; store_release
    slab_t self_memory          # what holds this struct
    slab_t counters_memory
    ring_t inbox                # of handed_t, from the engine (one thread at a time, by its lock)
    worker_listener_t listeners[MAX_LISTENERS]      # by slot


# A new worker, or NULL: no memory or no descriptors. `capacity`: client connections at most.
cdef worker_t *worker_new(shared_t *shared, uint16_t index, uint32_t capacity) noexcept nogil
# After its thread has ended: close every connection; the records of that are there to be taken.
cdef void worker_end(worker_t *self) noexcept nogil
# The same if need be, close all its sockets and free it.
cdef void worker_free(worker_t *self) noexcept nogil
# The thread's body: turn until told to stop.
cdef void worker_run(worker_t *self) noexcept nogil
# Go over to the published snapshot.
cdef void worker_pick_up(worker_t *self) noexcept nogil
# End the wait for events of the thread in worker_run.
cdef void worker_wake(worker_t *self) noexcept nogil
# Hand over two sockets for proxy.tcp's tcp_relay, and wake the worker. FP_OK: they are the
# worker's, which ends the client's part in shared_t.clients too; FP_FULL: the inbox is full.
cdef int worker_hand(
    worker_t *self, int client, int backend, uint32_t idle_timeout_ms
) noexcept nogil
# The protocols that this build has.
cdef void worker_protocols(protocol_t *protocols) noexcept nogil
