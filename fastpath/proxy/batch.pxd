"""Datagrams on their way through: taken from sockets many at a time, and kept until they are sent.

All that is under way in a turn lies in one batch of the worker, and nothing is from one turn to the
next. A message may hold several datagrams of one size that the kernel has put together (UDP_GRO):
it goes on as one, too. The first HEAD_SIZE bytes of a message lie in a place of its own, the rest
in one of a few that are long enough for any: short ones, of which there are many, lie close
together, long ones end the batch sooner.

Memory: BATCH_SIZE * HEAD_SIZE + TAILS * TAIL_SIZE, 600 KiB of addresses; the kernel gives pages
when they are first used, so 100 KiB serve a worker that never sees a message above HEAD_SIZE.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastpath.memory.slab cimport slab_t
from fastpath.proxy.datagram cimport CONTROL_WORDS
from fastpath.sys_linux cimport iovec, mmsghdr, sockaddr_any_t


cdef enum:
    BATCH_SIZE = 64             # messages
    HEAD_SIZE = 1600            # an Ethernet frame's payload; an odd number of cache lines
    TAIL_SIZE = 65536 - HEAD_SIZE       # together more than any has (but for RFC 2675's)
    TAILS = 8
    RECEIVE_MAX = 8             # messages taken by one system call


cdef struct datagram_t:         # a message that was received
    datagram_t *next            # for who keeps it
    uint8_t *head               # its first HEAD_SIZE bytes; borrowed from the batch, as `tail`
    uint8_t *tail               # the rest, if it has any
    uint32_t size
    uint16_t segment            # size of each of its datagrams, the last may be shorter


cdef struct batch_t:
    slab_t memory
    datagram_t datagrams[BATCH_SIZE]    # `n` are taken
    uint8_t *tails[TAILS]       # `n_tails` are free
    uint32_t n
    uint32_t n_tails
    uint32_t n_received         # by the last call: the last ones of those taken
    uint32_t n_asked            # by the last call
    mmsghdr headers[RECEIVE_MAX]        # what came with them
    sockaddr_any_t names[RECEIVE_MAX]   # who sent them
    iovec parts[RECEIVE_MAX][2]
    uint64_t control[RECEIVE_MAX][CONTROL_WORDS]


# FP_OK, or FP_FULL and no memory is set aside.
cdef int batch_init(batch_t *self) noexcept nogil
cdef void batch_free(batch_t *self) noexcept nogil
# Forget all that were taken.
cdef void batch_clear(batch_t *self) noexcept nogil
# Take what has come to a socket, as far as there is room (batch_is_full); `named`: note who sent
# it. FP_OK: the last n_received of the first `n` are new; FP_AGAIN: there was none; FP_RESET: errno
# says why.
cdef int batch_receive(batch_t *self, int fd, bint named) noexcept nogil


cdef inline bint batch_is_full(const batch_t *self) noexcept nogil:
    """Whether nothing can be received before batch_clear."""
    return self.n == BATCH_SIZE or self.n_tails == 0


cdef inline bint batch_drained(const batch_t *self) noexcept nogil:
    """Whether the last batch_receive left nothing: epoll will tell of what comes next."""
    return self.n_received < self.n_asked


cdef inline uint32_t datagram_count(const datagram_t *self) noexcept nogil:
    """How many datagrams a message holds."""
    if self.size <= self.segment:
        return 1
    return (self.size + self.segment - 1) // self.segment
