"""Frames out by interfaces, many by one system call, past the kernel's IP stack.

With `bypass` they go past its queues (tc), too: less work, but what the hardware does not take at
once is dropped. Frames that the kernel has to cut into packets (offload.gso_type) always go by way
of the queue: past it the kernel drops those that it has cut by itself, which it does where the
hardware cannot.
"""

from libc.stdint cimport uint32_t, uint64_t

from fastpath.packet.sys_packet cimport sockaddr_ll, virtio_net_hdr
from fastpath.packet.tap cimport frame_t
from fastpath.sys_linux cimport iovec, mmsghdr


cdef enum:
    TRANSMIT_MAX = 64           # frames that wait at most


# Why a frame was not sent; transmit_t.dropped.
cdef enum:
    UNSENT_QUEUE = 0            # the interface's queue is full, or a fence dropped it (ENOBUFS)
    UNSENT_LONG = 1             # longer than the interface's MTU (EMSGSIZE)
    UNSENT_DOWN = 2             # the interface is down (ENETDOWN)
    UNSENT_GONE = 3             # there is no such interface (ENXIO, ENODEV)
    UNSENT_BAD = 4              # the kernel makes no sense of it, or anything else
    UNSENT_COUNT = 5


cdef struct transmit_t


# Has what waits (transmit_t.n) instead of interfaces.
ctypedef void (*transmit_catch_fn)(void *owner, const transmit_t *waiting) noexcept nogil


cdef struct transmit_t:
    int fd                      # what most frames leave by
    int queued_fd               # what those leave by that may not bypass the queue; may be `fd`
    uint32_t n                  # frames that wait
    transmit_catch_fn catch     # NULL: it is sent
    void *owner                 # the first argument of `catch`
    uint64_t sent
    uint64_t calls              # system calls
    uint64_t dropped[UNSENT_COUNT]
    mmsghdr messages[TRANSMIT_MAX]
    iovec parts[TRANSMIT_MAX][2]
    sockaddr_ll targets[TRANSMIT_MAX]
    virtio_net_hdr offloads[TRANSMIT_MAX]


# FP_OK; FP_BAD: see errno, and there is nothing to free.
cdef int transmit_init(transmit_t *self, bint bypass) noexcept nogil
# The same with nothing sent, and no right needed: at each flush `catch` has what waits.
cdef void transmit_init_caught(
    transmit_t *self, transmit_catch_fn catch, void *owner
) noexcept nogil
cdef void transmit_free(transmit_t *self) noexcept nogil
# Have a frame leave by an interface, given by its index; its bytes are read by transmit_flush, and
# have to be there until then. FP_OK; FP_FULL: flush first; FP_BAD: shorter than its header.
cdef int transmit_add(transmit_t *self, const frame_t *frame, uint32_t interface) noexcept nogil
# Send what waits, in order; what cannot be sent is dropped and counted.
cdef void transmit_flush(transmit_t *self) noexcept nogil
