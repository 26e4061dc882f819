"""Datagrams on their way out: as few messages and system calls as the kernel allows."""

from libc.errno cimport errno
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memset

from fastpath.abi cimport FP_BAD, FP_OK, FP_RESET, fp_assert
from fastpath.proxy.batch cimport HEAD_SIZE, datagram_count
from fastpath.proxy.datagram cimport datagram_put_local, datagram_put_segment, is_refusal
from fastpath.sys_linux cimport (
    CMSG_SPACE, EINTR, EINVAL, EIO, EMSGSIZE, MSG_NOSIGNAL, msghdr, send, sendmmsg, sendmsg,
)


cdef enum:
    SLICE_PARTS = 2             # a datagram lies in a head and a tail at most


cdef void outbox_clear(outbox_t *self) noexcept nogil:
    self.n = 0
    self.next = 0
    self.n_parts = 0
    self.retried = 0


# ---- filling ----

cdef bint _fits(
    const note_t *last, const datagram_t *datagram, const void *owner
) noexcept nogil:
    """Whether it can go on the end of that message."""
    if last.owner != owner or last.apart[0] or datagram.size == 0:
        return False
    if last.size != last.n * last.segment:
        return False            # that ended with a shorter one
    if last.n + datagram_count(datagram) > SEGMENTS_MAX or last.size + datagram.size > MERGED_MAX:
        return False
    return datagram.segment == last.segment or (
        datagram.size < last.segment and datagram_count(datagram) == 1
    )


cdef void _add_part(outbox_t *self, uint8_t *data, uint32_t size) noexcept nogil:
    self.parts[self.n_parts].iov_base = data
    self.parts[self.n_parts].iov_len = size
    self.n_parts += 1
    self.headers[self.n - 1].msg_hdr.msg_iovlen += 1


cdef void _begin(
    outbox_t *self, void *owner, uint8_t *apart, const parties_t *to, bint from_local
) noexcept nogil:
    """Add an empty message."""
    cdef msghdr *message = &self.headers[self.n].msg_hdr
    cdef note_t *note = &self.notes[self.n]
    fp_assert(self.n < BATCH_SIZE)
    memset(message, 0, sizeof(msghdr))
    memset(note, 0, sizeof(note_t))
    note.owner = owner
    note.apart = apart
    message.msg_iov = &self.parts[self.n_parts]
    message.msg_control = self.control[self.n]
    if to != NULL:
        message.msg_name = <void *>&to.client
        message.msg_namelen = sizeof(to.client)
        if from_local:
            datagram_put_local(message, to)
    self.n += 1


cdef void outbox_add(
    outbox_t *self, const datagram_t *datagram, void *owner, uint8_t *apart, const parties_t *to,
    bint from_local,
) noexcept nogil:
    cdef note_t *note
    cdef bint was_one
    if self.n == 0 or not _fits(&self.notes[self.n - 1], datagram, owner):
        _begin(self, owner, apart, to, from_local)
    note = &self.notes[self.n - 1]
    was_one = note.n <= 1
    if note.n == 0:
        note.segment = datagram.segment
    note.n += datagram_count(datagram)
    note.size += datagram.size
    if was_one and note.n > 1:
        datagram_put_segment(&self.headers[self.n - 1].msg_hdr, note.segment)
    _add_part(self, datagram.head, min(datagram.size, <uint32_t>HEAD_SIZE))
    if datagram.size > HEAD_SIZE:
        _add_part(self, datagram.tail, datagram.size - HEAD_SIZE)


# ---- sending ----

cdef int _send_slice(int fd, msghdr *message) noexcept nogil:
    """Send one datagram. FP_OK, FP_BAD or FP_RESET, as outbox_send."""
    while sendmsg(fd, message, MSG_NOSIGNAL) < 0:
        if errno != EINTR:
            return FP_RESET if is_refusal(errno) else FP_BAD
    return FP_OK


cdef int _send_apart(outbox_t *self, int fd) noexcept nogil:
    """Send the next message's datagrams one by one. FP_OK, or FP_RESET: as for the message."""
    cdef note_t *note = &self.notes[self.next]
    cdef msghdr message = self.headers[self.next].msg_hdr
    cdef iovec slices[SLICE_PARTS]
    cdef iovec left = message.msg_iov[0]
    cdef size_t size = note.size
    cdef size_t wanted, whole
    cdef uint32_t part = 0
    cdef int result
    message.msg_iov = slices
    message.msg_controllen -= CMSG_SPACE(sizeof(note.segment))         # it is the last
    note.n_unsent = 0
    note.unsent = 0
    while size > 0:
        whole = wanted = min(size, <size_t>note.segment)
        size -= wanted
        message.msg_iovlen = 0
        while wanted > 0:
            fp_assert(message.msg_iovlen < SLICE_PARTS)
            slices[message.msg_iovlen].iov_base = left.iov_base
            slices[message.msg_iovlen].iov_len = min(wanted, left.iov_len)
            wanted -= slices[message.msg_iovlen].iov_len
            left.iov_base = <uint8_t *>left.iov_base + slices[message.msg_iovlen].iov_len
            left.iov_len -= slices[message.msg_iovlen].iov_len
            message.msg_iovlen += 1
            if left.iov_len == 0 and size + wanted > 0:
                part += 1
                left = self.headers[self.next].msg_hdr.msg_iov[part]
        result = _send_slice(fd, &message)
        if result == FP_RESET:
            return FP_RESET
        if result != FP_OK:
            note.n_unsent += 1
            note.unsent += <uint32_t>whole
    return FP_OK


cdef int _send_some(outbox_t *self, int fd) noexcept nogil:
    """Send messages as they are, from the next one on. How many; -1: errno has why none."""
    cdef msghdr *first = &self.headers[self.next].msg_hdr
    cdef uint32_t n = 1
    while self.next + n < self.n:
        if self.notes[self.next + n].n > 1 and self.notes[self.next + n].apart[0]:
            break
        n += 1
    if n > 1:
        return sendmmsg(fd, &self.headers[self.next], n, MSG_NOSIGNAL)
    if first.msg_name == NULL and first.msg_controllen == 0 and first.msg_iovlen == 1:
        # A message less to be copied and checked.
        return 1 if send(
            fd, first.msg_iov.iov_base, first.msg_iov.iov_len, MSG_NOSIGNAL
        ) >= 0 else -1
    return 1 if sendmsg(fd, first, MSG_NOSIGNAL) >= 0 else -1


cdef int outbox_send(outbox_t *self, int fd) noexcept nogil:
    cdef note_t *note
    cdef int n
    while self.next < self.n:
        note = &self.notes[self.next]
        if note.n > 1 and note.apart[0]:
            if _send_apart(self, fd) != FP_OK:
                return FP_RESET
            self.next += 1
            continue
        n = _send_some(self, fd)
        if n > 0:
            self.next += <uint32_t>n
        elif note.n > 1 and (errno == EIO or errno == EINVAL or errno == EMSGSIZE):
            note.apart[0] = True
        elif errno == EMSGSIZE and self.retried != self.next + 1:
            self.retried = self.next + 1        # it may have been news of an earlier one
        elif errno != EINTR:
            return FP_RESET if is_refusal(errno) else FP_BAD
    return FP_OK
