"""What one node tells another about a NAT flow: a record of RECORD_SIZE bytes.

Of version 1 (fastpath/flow_batches.py has the header of many); numbers are in network order:

    0  client's address, 16 bytes      32  port that nat connects from
    16 backend: XXH64 of its name      34  MAC of the client's next hop, 6 bytes
    24 silent for so many ms, 4 bytes  40  protocol: 6 or 17
    28 client's port                   41  state: 1 done, 2 closing, 3 established, 4 stream
    30 VIP's port                      42  FINs: a bit for the client's, one for the backend's
                                       43  0

The VIP is the same for all of a batch. A flow without a record of its state (new ones, reset ones)
has none.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastpath.packet.flow cimport flow_key_t


cdef enum:
    RECORD_SIZE = 44


cdef struct flow_record_t:
    flow_key_t key              # of packets from the client
    uint64_t backend
    uint32_t silent_ms
    uint16_t nat_port           # network order
    uint8_t state               # FLOW_*
    uint8_t fins                # see flow_t
    uint8_t client_mac[6]


# Write RECORD_SIZE bytes; `state` is FLOW_DONE or later.
cdef void flow_record_write(const flow_record_t *self, uint8_t *data) noexcept nogil
# Read RECORD_SIZE bytes about a flow to that VIP. FP_OK, or FP_BAD: no such flow can be.
cdef int flow_record_read(
    flow_record_t *self, const uint8_t *vip, const uint8_t *data
) noexcept nogil
