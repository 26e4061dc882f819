"""A super-frame cut into the packets that it stands for, where the kernel does not do it.

The kernel (or the hardware) cuts a frame by its `offload` when it is sent, but none that has an
outer IP header of ours. What is cut here is what the kernel would make of it (GSO): a piece of the
payload each, and a copy of the headers with its own lengths, IPv4 id, IPv4 checksum, TCP sequence
number and flags. The sum of TCP or UDP is left to the kernel, as it was; an outer header keeps its
id. The payload stays where it is.
"""

from libc.stdint cimport uint32_t

from fastpath.packet.tap cimport frame_t
from fastpath.packet.transmit cimport transmit_t


# Have all packets of a frame with `offload.gso_type` leave by an interface. `l3` is the offset of
# the IP header that TCP or UDP is in, `outer` that of the first one, which may be the same. What
# waits is flushed when there is no more room. FP_OK; FP_BAD: it is no such frame, and nothing is
# sent of it.
cdef int cut_and_add(
    transmit_t *transmit, const frame_t *frame, uint32_t interface, uint32_t outer, uint32_t l3
) noexcept nogil
