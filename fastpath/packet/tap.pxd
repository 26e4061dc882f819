"""Frames that come in by an interface, taken before the kernel's IP stack sees them.

A packet socket for all protocols hears a frame before the kernel's ingress hooks (tc, nftables),
so what those drop is heard, too. Its filter says which frames come here at all, and it is there
before the socket is bound: no other frame ever enters. Frames lie in a ring that is shared with
the kernel, a slot each: to take one is no system call. Longer ones (the kernel puts packets of a
TCP stream together: GRO) wait in the socket's queue, in order with the rest.

A frame may have something left to be done to it, and `offload` says what:
- VIRTIO_NET_HDR_F_NEEDS_CSUM in `flags`: its TCP or UDP checksum, at `csum_start + csum_offset`
  from the frame's beginning, is not there yet. In its place is the folded sum of the pseudo-header,
  not complemented: a new address changes it, a new port does not.
- `gso_type`: it stands for several packets of `gso_size` bytes of payload each.
Whoever sends the frame hands that on (transmit.pxd), and the kernel or the hardware does it. Who
puts bytes before the packet moves `csum_start`, and `hdr_len` unless it is 0, by as many.

A flow cache at tc ingress has its turn after packet sockets, too: what it is about to carry is
heard here, unless it hides that from the tap (FlowCache.hide_from). A flow that gets
into the cache or out of it just between the two has a packet that goes twice, or not at all.

One thread uses a tap.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastpath.memory.slab cimport slab_t
from fastpath.packet.sys_packet cimport sock_filter, virtio_net_hdr


cdef enum:
    TAP_HEADROOM = 64           # bytes before a frame: an outer IPv6 header and a VLAN tag fit
    TAP_TAILROOM = 16           # and behind
    TAP_LONG_MAX = 16           # frames longer than a slot that are taken between two releases
    TAP_FRAME_MAX = 65536 + 32  # the longest frame; the kernel may be told to make longer ones


# What tap_init could not do; tap_t.failed.
cdef enum:
    TAP_OPENED = 0
    TAP_SOCKET = 1              # no packet socket (CAP_NET_RAW)
    TAP_INTERFACE = 2           # no such interface
    TAP_OPTION = 3              # the kernel is too old for something
    TAP_FILTER = 4              # the program is refused
    TAP_RING = 5                # no memory for the ring
    TAP_BIND = 6


cdef struct frame_t:
    # Its Ethernet header; borrowed from the tap until tap_release. Writable, from TAP_HEADROOM
    # before it to TAP_TAILROOM behind.
    uint8_t *data
    uint32_t size               # bytes
    uint16_t vlan               # the tag that was taken out of it: priority and VLAN (802.1Q TCI)
    uint16_t vlan_protocol      # and its ethertype; 0: there was none
    virtio_net_hdr offload


cdef struct tap_counters_t:
    uint64_t frames             # given out
    uint64_t long_frames        # of them, those that no slot holds
    uint64_t dropped            # by the kernel: the ring was full (tap_statistics)
    uint64_t truncated          # thrown away: the queue for long frames was full
    uint64_t down               # times the interface went down


cdef struct tap_t:
    uint8_t *ring               # n_slots * slot_size bytes, shared with the kernel
    slab_t memory               # TAP_LONG_MAX frames
    uint8_t *long_frames[TAP_LONG_MAX]
    tap_counters_t counters
    uint32_t n_slots
    uint32_t slot_size          # both powers of two
    uint32_t next               # slot that is looked at next, counted on for ever
    uint32_t released           # the same of the first that the kernel does not have back
    uint32_t n_long             # taken since the last release
    int fd                      # for epoll: EPOLLIN, and EPOLLERR (tap_check)
    int error                   # errno of what failed
    uint8_t failed              # TAP_*


# Listen on an interface, given by its index, for the frames that a classic BPF program lets
# through, of those that come in by it. The ring has `n_slots` (a power of two) with room for a
# packet of the interface's MTU.
# FP_OK; FP_BAD: `failed` and `error` say why, and there is nothing to free.
cdef int tap_init(
    tap_t *self, uint32_t interface, const sock_filter *program, uint16_t n_instructions,
    uint32_t n_slots,
) noexcept nogil
cdef void tap_free(tap_t *self) noexcept nogil
# Replace the filter, in one step. FP_OK, or FP_BAD: see errno, and the former one is in force.
cdef int tap_filter(tap_t *self, const sock_filter *program, uint16_t n) noexcept nogil
# The next frame: FP_OK; FP_AGAIN: there is none; FP_FULL: release those taken first.
cdef int tap_next(tap_t *self, frame_t *frame) noexcept nogil
# Give all frames that were taken back to the kernel.
cdef void tap_release(tap_t *self) noexcept nogil
# After EPOLLERR: FP_OK; FP_AGAIN: the interface is down, what comes after that is heard again;
# FP_RESET: it is gone for good: open another tap when it is back, under another index.
cdef int tap_check(tap_t *self) noexcept nogil
# The interface's hardware address. FP_OK, or FP_BAD: it is gone, or is none of Ethernet.
cdef int tap_mac(const tap_t *self, uint8_t *mac) noexcept nogil
# Add what the kernel has dropped since the last call to the counters.
cdef void tap_statistics(tap_t *self) noexcept nogil
