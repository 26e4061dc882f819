"""What becomes of a frame: `nat` and `dsr`, decided and sent.

A frame that no flow is known for gets one: its service by VIP, port and protocol, its backend by
Maglev over the flow's hash. Every node of a cluster has the same hash and the same tables, so what
is forwarded without a flow, or by a node that has just taken a VIP over, goes to the same backend.
What a flow has decided is put into the kernel's flow cache, if there is one.

Each frame ends in one of FORWARD_* (outcomes.pxd), counted by service. One thread uses a
forwarder; others may read its counters.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from fastpath.abi cimport MAX_SERVICES
from fastpath.memory.slab cimport slab_t
from fastpath.packet.affinity cimport affinity_t
from fastpath.packet.flow cimport flow_key_t
from fastpath.packet.flow_map cimport flow_map_t
from fastpath.packet.flow_states cimport flow_t
from fastpath.packet.flows cimport flows_t
from fastpath.packet.forwards cimport forward_t, forwards_t
from fastpath.packet.fragments cimport fragments_t
from fastpath.packet.held cimport held_t
from fastpath.packet.nat_ports cimport nat_ports_t
from fastpath.packet.outcomes cimport FORWARD_COUNT
from fastpath.packet.outlet cimport outlet_t
from fastpath.packet.parse cimport PARSE_COUNT
from fastpath.packet.tap cimport frame_t


cdef enum:
    NO_SERVICE = MAX_SERVICES   # counts what belongs to none


cdef struct forward_counters_t:
    uint64_t packets[FORWARD_COUNT]
    uint64_t bytes              # sent: frames as they came in
    uint64_t new_flows
    uint64_t stateless          # sent without a flow


cdef struct forwarder_t:
    const forwards_t *tables    # borrowed; good until the next forwarder_pick_up
    flows_t flows
    fragments_t fragments
    nat_ports_t ports
    held_t held
    affinity_t affinity
    outlet_t outlet
    flow_map_t *map             # borrowed; NULL: there is no flow cache
    const uint64_t *lease_ns    # borrowed: nat speaks for VIPs until then; NULL: for ever
    uint64_t now_ms             # set by the caller before each batch
    slab_t counters_memory
    forward_counters_t *counters    # MAX_SERVICES + 1, by slot
    uint64_t parsed[PARSE_COUNT]


# FP_OK, but for outlet.transmit, which the caller sets up; FP_BAD or FP_FULL, and there is nothing
# to free. Ports of nat: first to last.
cdef int forwarder_init(
    forwarder_t *self,
    const uint64_t *hash_key,
    uint32_t new_max,
    uint32_t confirmed_max,
    uint16_t first_port,
    uint16_t last_port,
) noexcept nogil
cdef void forwarder_free(forwarder_t *self) noexcept nogil
# Decide about a frame and let it wait in `outlet`: its bytes have to stay until
# forwarder_flush. FORWARD_*. When FP_FULL threatens it flushes by itself.
cdef int forwarder_take(forwarder_t *self, frame_t *frame) noexcept nogil
# Send what waits.
cdef void forwarder_flush(forwarder_t *self) noexcept nogil
# Go over to other tables; flows of what is gone or down end, those whose backend moved follow.
cdef void forwarder_pick_up(forwarder_t *self, const forwards_t *tables) noexcept nogil
# End what has been silent for too long; some work only.
cdef void forwarder_age(forwarder_t *self) noexcept nogil

# ---- for who adds flows beside it (handover.pxd) ----

# Whether flows with that key, which came to `forward`, may begin.
cdef bint forwarder_allows(
    const forwarder_t *self, const forward_t *forward, const flow_key_t *key
) noexcept nogil
# Have the kernel's flow cache, if there is one, carry both ways of a flow or none: it is seen here,
# or it is not.
cdef void forwarder_carry(forwarder_t *self, const flow_t *flow) noexcept nogil
