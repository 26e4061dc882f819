"""Datagrams on their way out: as few messages and system calls as the kernel allows.

Consecutive datagrams of one size to one peer become one message that the kernel, or the network
card, cuts up again (udp(7), UDP_SEGMENT): most of a datagram's cost is the way through the stack,
which they then go together. Every datagram goes out as it came in, or not at all.

A kernel, card or path may refuse that (no checksum offload: EIO; longer than the MTU allows: EINVAL
or EMSGSIZE). Then the datagrams of the message are sent one by one, and its owner is told not to
merge any more.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastpath.proxy.batch cimport BATCH_SIZE, datagram_t
from fastpath.proxy.datagram cimport CONTROL_WORDS, parties_t
from fastpath.sys_linux cimport iovec, mmsghdr


cdef enum:
    SEGMENTS_MAX = 64           # of one message, in every kernel that can
    MERGED_MAX = 65507          # bytes of one message: what IPv4 has room for


cdef struct note_t:             # what a message of the outbox is
    void *owner                 # whose it is; borrowed
    uint8_t *apart              # of the owner: set when merging was refused; borrowed
    uint32_t size
    uint32_t n                  # datagrams
    uint32_t n_unsent           # datagrams of them that were not sent, though the others were,
    uint32_t unsent             # and their bytes
    uint16_t segment            # size of each of them, the last may be shorter


cdef struct outbox_t:
    uint32_t n                  # messages
    uint32_t next               # the first one that is not sent yet
    uint32_t n_parts
    uint32_t retried            # 1 + the message that failed and was tried once more
    mmsghdr headers[BATCH_SIZE]
    note_t notes[BATCH_SIZE]
    iovec parts[2 * BATCH_SIZE]
    uint64_t control[BATCH_SIZE][CONTROL_WORDS]


# Empty it.
cdef void outbox_clear(outbox_t *self) noexcept nogil
# Append a message of a batch; all of one batch have room. `to`: the client it goes to, or NULL on a
# connected socket; `from_local`: say which address it comes from; `apart`: a flag of the owner's,
# for this socket, that its messages must not be merged.
cdef void outbox_add(
    outbox_t *self,
    const datagram_t *datagram,
    void *owner,
    uint8_t *apart,
    const parties_t *to,
    bint from_local,
) noexcept nogil
# Send what is not sent yet. FP_OK: all is; else `next` is the message at fault: FP_BAD: the kernel
# does not take it (too long, no room); FP_RESET: another error, of the peer maybe. To go on without
# that message, add to `next`.
cdef int outbox_send(outbox_t *self, int fd) noexcept nogil
