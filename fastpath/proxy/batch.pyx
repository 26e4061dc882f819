"""Datagrams on their way through: taken from sockets many at a time, kept until they are sent."""

from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memset

from fastpath.abi cimport FP_AGAIN, FP_FULL, FP_OK, FP_RESET, fp_assert
from fastpath.memory.slab cimport slab_free, slab_get, slab_init
from fastpath.proxy.datagram cimport datagram_segment
from fastpath.sys_linux cimport EAGAIN, EINTR, recvmmsg


cdef int batch_init(batch_t *self) noexcept nogil:
    cdef size_t size = BATCH_SIZE * HEAD_SIZE + TAILS * TAIL_SIZE
    cdef uint8_t *memory
    cdef uint32_t i
    memset(self, 0, sizeof(batch_t))
    if slab_init(&self.memory, 1, <uint32_t>size) != FP_OK:
        return FP_FULL
    memory = <uint8_t *>slab_get(&self.memory)
    for i in range(<uint32_t>BATCH_SIZE):
        self.datagrams[i].head = memory + i * HEAD_SIZE
    memory += BATCH_SIZE * HEAD_SIZE
    for i in range(<uint32_t>TAILS):
        self.tails[i] = memory + i * TAIL_SIZE
    self.n_tails = TAILS
    return FP_OK


cdef void batch_free(batch_t *self) noexcept nogil:
    slab_free(&self.memory)


cdef void batch_clear(batch_t *self) noexcept nogil:
    cdef uint32_t i
    for i in range(self.n):
        if self.datagrams[i].tail != NULL:
            self.tails[self.n_tails] = self.datagrams[i].tail
            self.n_tails += 1
    self.n = 0
    fp_assert(self.n_tails == TAILS)


cdef void _ask(batch_t *self, uint32_t i, bint named) noexcept nogil:
    """Prepare the i-th message of a call."""
    cdef mmsghdr *header = &self.headers[i]
    cdef uint8_t *head = self.datagrams[self.n + i].head
    self.parts[i][0].iov_base = head
    self.parts[i][0].iov_len = HEAD_SIZE
    self.parts[i][1].iov_base = self.tails[self.n_tails - 1 - i]
    self.parts[i][1].iov_len = TAIL_SIZE
    header.msg_hdr.msg_iov = self.parts[i]
    header.msg_hdr.msg_iovlen = 2
    header.msg_hdr.msg_control = self.control[i]
    header.msg_hdr.msg_controllen = sizeof(self.control[i])
    header.msg_hdr.msg_flags = 0
    header.msg_hdr.msg_name = NULL
    header.msg_hdr.msg_namelen = 0
    if named:
        # The kernel fills in as much as the family has.
        memset(&self.names[i], 0, sizeof(self.names[i]))
        header.msg_hdr.msg_name = &self.names[i]
        header.msg_hdr.msg_namelen = sizeof(self.names[i])


cdef void _keep(batch_t *self, uint32_t i) noexcept nogil:
    """Note what the i-th message of a call has become."""
    cdef datagram_t *datagram = &self.datagrams[self.n + i]
    cdef uint16_t segment = datagram_segment(&self.headers[i].msg_hdr)
    datagram.next = NULL
    datagram.tail = NULL
    datagram.size = self.headers[i].msg_len
    datagram.segment = segment if segment > 0 else <uint16_t>datagram.size
    if datagram.size > HEAD_SIZE:
        datagram.tail = <uint8_t *>self.parts[i][1].iov_base


cdef int batch_receive(batch_t *self, int fd, bint named) noexcept nogil:
    cdef uint32_t i
    cdef int n = 0
    self.n_asked = min(<uint32_t>RECEIVE_MAX, min(self.n_tails, BATCH_SIZE - self.n))
    self.n_received = 0
    fp_assert(self.n_asked > 0)
    for i in range(self.n_asked):
        _ask(self, i, named)
    while True:
        n = recvmmsg(fd, self.headers, self.n_asked, 0, NULL)
        if n >= 0:
            break
        if errno != EINTR:
            return FP_AGAIN if errno == EAGAIN else FP_RESET
    self.n_received = <uint32_t>n
    # The places of those asked for but not needed are free again.
    self.n_tails -= self.n_asked
    for i in range(self.n_asked):
        if i < self.n_received:
            _keep(self, i)
        if i >= self.n_received or self.datagrams[self.n + i].tail == NULL:
            self.tails[self.n_tails] = <uint8_t *>self.parts[i][1].iov_base
            self.n_tails += 1
    self.n += self.n_received
    return FP_OK
