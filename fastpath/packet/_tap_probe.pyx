"""Python's way into the tap, for the tests; built with PIAGENT_PROBE=1 only."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from fastpath.abi cimport FP_AGAIN, FP_FULL, FP_OK
from fastpath.packet.sys_packet cimport sock_filter, virtio_net_hdr
from fastpath.packet.tap cimport (
    TAP_HEADROOM as _TAP_HEADROOM, TAP_LONG_MAX as _TAP_LONG_MAX, TAP_TAILROOM as _TAP_TAILROOM,
    frame_t, tap_check, tap_filter, tap_free, tap_init, tap_next, tap_release,
    tap_statistics, tap_t,
)
from fastpath.packet.transmit cimport (
    TRANSMIT_MAX as _TRANSMIT_MAX, transmit_add, transmit_flush, transmit_free, transmit_init,
    transmit_t,
)
from fastpath.sys_linux cimport CLOCK_MONOTONIC, clock_gettime, timespec, usleep

import os

TAP_HEADROOM = _TAP_HEADROOM
TAP_LONG_MAX = _TAP_LONG_MAX
TAP_TAILROOM = _TAP_TAILROOM
TRANSMIT_MAX = _TRANSMIT_MAX

# frame_t.offload in the order of its fields.
NO_OFFLOAD = (0, 0, 0, 0, 0, 0)

OK = FP_OK
AGAIN = FP_AGAIN
FULL = FP_FULL


cdef class Tap:
    """A tap in the network namespace of the calling thread; OSError with the step as filename."""

    cdef tap_t tap
    cdef bint opened

    def __cinit__(self, uint32_t interface, list program, uint32_t n_slots=256):
        cdef sock_filter *code = _code(program)
        cdef uint16_t n = <uint16_t>len(program)
        cdef int done = tap_init(&self.tap, interface, code, n, n_slots)
        free(code)
        if done != FP_OK:
            raise OSError(self.tap.error, os.strerror(self.tap.error), str(self.tap.failed))
        self.opened = True

    def __dealloc__(self):
        self.close()

    def close(self):
        if self.opened:
            tap_free(&self.tap)
            self.opened = False

    def filter(self, list program):
        cdef sock_filter *code = _code(program)
        cdef int done = tap_filter(&self.tap, code, <uint16_t>len(program))
        free(code)
        return done == FP_OK

    def next(self, spoil=False):
        """(frame, offload, (vlan protocol, vlan)), or AGAIN or FULL; `spoil`: write around it."""
        cdef frame_t frame
        cdef size_t room
        cdef int done = tap_next(&self.tap, &frame)
        if done != FP_OK:
            return done
        data = (<uint8_t *>frame.data)[:frame.size]
        if spoil:
            room = _TAP_HEADROOM + frame.size + _TAP_TAILROOM
            memset(frame.data - <int>_TAP_HEADROOM, 0xdb, room)
        return data, _told(&frame.offload), (frame.vlan_protocol, frame.vlan)

    def release(self):
        tap_release(&self.tap)

    def check(self):
        return tap_check(&self.tap)

    @property
    def fd(self):
        return self.tap.fd

    @property
    def counters(self):
        tap_statistics(&self.tap)
        return self.tap.counters

    @property
    def slots(self):
        return self.tap.n_slots, self.tap.slot_size


cdef class Transmit:
    """What sends frames; each that is added is kept until flush."""

    cdef transmit_t transmit
    cdef bint opened
    cdef list kept

    def __cinit__(self, bint bypass):
        self.kept = []
        if transmit_init(&self.transmit, bypass) != FP_OK:
            raise OSError("no packet socket")
        self.opened = True

    def __dealloc__(self):
        self.close()

    def close(self):
        if self.opened:
            transmit_free(&self.transmit)
            self.opened = False

    def add(self, bytes data, uint32_t interface, tuple offload=NO_OFFLOAD):
        cdef frame_t frame
        memset(&frame, 0, sizeof(frame))
        frame.data = <uint8_t *>data
        frame.size = <uint32_t>len(data)
        frame.offload.flags, frame.offload.gso_type, frame.offload.hdr_len = offload[:3]
        frame.offload.gso_size, frame.offload.csum_start, frame.offload.csum_offset = offload[3:]
        self.kept.append(data)
        return transmit_add(&self.transmit, &frame, interface)

    def flush(self):
        transmit_flush(&self.transmit)
        self.kept.clear()

    @property
    def sent(self):
        return self.transmit.sent

    @property
    def calls(self):
        return self.transmit.calls

    @property
    def dropped(self):
        return list(self.transmit.dropped)


def carry(Tap tap, Transmit transmit, dict ways, double seconds):
    """Take frames and send them on for so long; how many turns found something and how many not.

    `ways`: for the destination MAC that a frame comes with, (new destination MAC, source MAC,
    index of the interface), two at most.
    """
    cdef uint8_t macs[2][18]
    cdef uint32_t interfaces[2]
    cdef bytes way
    cdef int n_ways = 0
    cdef uint64_t n_full = 0
    cdef uint64_t n_empty = 0
    cdef uint64_t end_ns = _now_ns() + <uint64_t>(seconds * 1e9)
    for came_for, (destination, source, interface) in ways.items():
        way = came_for + destination + source
        memcpy(macs[n_ways], <const uint8_t *>way, 18)
        interfaces[n_ways] = interface
        n_ways += 1
    with nogil:
        while _now_ns() < end_ns:
            if _carry_batch(&tap.tap, &transmit.transmit, macs, interfaces, n_ways):
                n_full += 1
            else:
                n_empty += 1
                usleep(50)
    return n_full, n_empty


cdef uint32_t _carry_batch(
    tap_t *tap, transmit_t *transmit, uint8_t (*macs)[18], const uint32_t *interfaces, int n_ways
) noexcept nogil:
    cdef frame_t frame
    cdef int i
    cdef uint32_t n = 0
    while n < _TRANSMIT_MAX and tap_next(tap, &frame) == FP_OK:
        n += 1
        for i in range(n_ways):
            if _same_mac(frame.data, macs[i]):
                memcpy(frame.data, macs[i] + 6, 12)
                transmit_add(transmit, &frame, interfaces[i])
                break
    transmit_flush(transmit)
    tap_release(tap)
    return n


cdef bint _same_mac(const uint8_t *one, const uint8_t *other) noexcept nogil:
    cdef int i
    for i in range(6):
        if one[i] != other[i]:
            return False
    return True


cdef uint64_t _now_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1_000_000_000 + <uint64_t>now.tv_nsec


cdef tuple _told(const virtio_net_hdr *offload):
    return (
        offload.flags, offload.gso_type, offload.hdr_len, offload.gso_size, offload.csum_start,
        offload.csum_offset,
    )


cdef sock_filter *_code(list program) except NULL:
    """As Python has a program: (code, skip if true, skip if false, operand) each."""
    cdef sock_filter *code = <sock_filter *>calloc(len(program) + 1, sizeof(sock_filter))
    if code == NULL:
        raise MemoryError
    for i, (what, if_true, if_false, operand) in enumerate(program):
        code[i].code, code[i].jt, code[i].jf, code[i].k = what, if_true, if_false, operand
    return code
