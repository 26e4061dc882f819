"""The forwarder's side of the flow cache: what the kernel is to carry, and how it is used.

Called by the forwarder's thread, but any thread may. What is put in is in force for the next packet
that arrives; the program that has just looked a flow up may still finish one by the old word.
"""

from libc.stdint cimport uint32_t, uint64_t

from fastpath.atomics cimport load_relaxed
from fastpath.packet.flow cimport flow_key_t, flow_use_t, rewrite_t


cdef enum:
    FLOW_MAP_INTERFACES = 16


cdef struct flow_map_t:
    int flows                   # BPF map flow_key_t -> rewrite_t; owned
    int uses_fd                 # BPF map of flow_use_t by rewrite_t.use; owned
    flow_use_t *uses            # its memory: n_uses, which the kernel counts in
    int lease_fd                # BPF map of one number; owned
    uint64_t *lease_ns          # its memory: NAT is carried until then, by CLOCK_MONOTONIC
    uint32_t n_uses
    uint32_t n_interfaces
    uint32_t interfaces[FLOW_MAP_INTERFACES]    # that the program runs on, so may send out of
    # Counters, of one writer: the forwarder.
    uint64_t put
    uint64_t deleted
    uint64_t full               # not put: the map is, or the kernel has no memory


# Room for `n_flows`, and for the use of `n_uses`. 0, or a negative errno and nothing is set aside.
cdef int flow_map_init(flow_map_t *self, uint32_t n_flows, uint32_t n_uses) noexcept nogil
# The same with maps that are there already; it owns the descriptors from now on, whatever comes of
# it. -EINVAL: they are not of this kind and size.
cdef int flow_map_take(
    flow_map_t *self, int flows, int uses_fd, uint32_t n_flows, uint32_t n_uses
) noexcept nogil
cdef void flow_map_free(flow_map_t *self) noexcept nogil

# Have the kernel carry a flow by this rewrite from now on, also instead of another one. FP_OK;
# FP_FULL; FP_BAD: no use or interface that there is, or not a rewrite.
cdef int flow_map_put(
    flow_map_t *self, const flow_key_t *key, const rewrite_t *rewrite
) noexcept nogil
# FP_OK, or FP_DONE: it was not there.
cdef int flow_map_delete(flow_map_t *self, const flow_key_t *key) noexcept nogil
# Have it carry none.
cdef void flow_map_clear(flow_map_t *self) noexcept nogil


cdef inline uint64_t flow_map_last_ns(const flow_map_t *self, uint32_t use) noexcept nogil:
    """When the kernel carried a packet by this use last; 0: never. Without a system call."""
    return load_relaxed(&self.uses[use].last_ns)
