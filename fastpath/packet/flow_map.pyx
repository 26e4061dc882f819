"""The forwarder's side of the flow cache: what the kernel is to carry, and how it is used."""

from libc.errno cimport EINVAL, ENOENT, errno
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from fastpath.abi cimport FP_BAD, FP_DONE, FP_FULL, FP_OK, fp_static_assert
from fastpath.atomics cimport count, store_release
from fastpath.packet.bpf cimport (
    BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_HASH, bpf_map_delete,
    bpf_map_new, bpf_map_next, bpf_map_put, bpf_map_shape, bpf_map_shape_t,
)
from fastpath.packet.flow cimport REWRITE_ENCAPSULATE, flow_key_t, flow_use_t, rewrite_t
from fastpath.sys_linux cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, close, mmap, munmap


cdef int flow_map_init(flow_map_t *self, uint32_t n_flows, uint32_t n_uses) noexcept nogil:
    cdef int uses_fd
    # Entries take memory when there are flows: most nodes have few, a Pi little to set aside.
    cdef int flows = bpf_map_new(
        BPF_MAP_TYPE_HASH, sizeof(flow_key_t), sizeof(rewrite_t), n_flows, BPF_F_NO_PREALLOC,
        b"piagent_flows",
    )
    if flows < 0:
        return flows
    uses_fd = _array(n_uses, sizeof(flow_use_t), b"piagent_uses")
    if uses_fd < 0:
        close(flows)
        return uses_fd
    return flow_map_take(self, flows, uses_fd, n_flows, n_uses)


cdef inline int _array(uint32_t n, size_t size, const char *name) noexcept nogil:
    """An array whose memory we share; the descriptor, or a negative errno."""
    return bpf_map_new(
        BPF_MAP_TYPE_ARRAY, sizeof(uint32_t), <uint32_t>size, n, BPF_F_MMAPABLE, name
    )


cdef int _map_lease(flow_map_t *self) noexcept nogil:
    """A new one in any case: it belongs to the process that holds the leases. 0, or -errno."""
    cdef void *memory
    self.lease_fd = _array(1, sizeof(uint64_t), b"piagent_lease")
    if self.lease_fd < 0:
        return self.lease_fd
    memory = mmap(NULL, sizeof(uint64_t), PROT_READ | PROT_WRITE, MAP_SHARED, self.lease_fd, 0)
    if memory == MAP_FAILED:
        return -errno
    self.lease_ns = <uint64_t *>memory
    store_release(self.lease_ns, ~<uint64_t>0)
    return 0


cdef bint _has_shape(
    int map, uint32_t kind, size_t key_size, size_t value_size, uint32_t n
) noexcept nogil:
    cdef bpf_map_shape_t shape
    return (
        bpf_map_shape(map, &shape) == 0
        and shape.kind == kind
        and shape.key_size == key_size
        and shape.value_size == value_size
        and shape.n == n
    )


cdef int flow_map_take(
    flow_map_t *self, int flows, int uses_fd, uint32_t n_flows, uint32_t n_uses
) noexcept nogil:
    cdef void *memory
    cdef int error = -EINVAL
    # As in flow_cache_packet.h.
    fp_static_assert(sizeof(flow_key_t) == 40)
    fp_static_assert(sizeof(rewrite_t) == 64)
    fp_static_assert(sizeof(flow_use_t) == 32)
    memset(self, 0, sizeof(flow_map_t))
    self.flows = flows
    self.uses_fd = uses_fd
    self.lease_fd = -1
    if (
        _has_shape(flows, BPF_MAP_TYPE_HASH, sizeof(flow_key_t), sizeof(rewrite_t), n_flows)
        and _has_shape(
            uses_fd, BPF_MAP_TYPE_ARRAY, sizeof(uint32_t), sizeof(flow_use_t), n_uses
        )
    ):
        memory = mmap(NULL, n_uses * sizeof(flow_use_t), PROT_READ | PROT_WRITE,
                      MAP_SHARED, uses_fd, 0)
        if memory != MAP_FAILED:
            self.uses = <flow_use_t *>memory
            self.n_uses = n_uses
            error = _map_lease(self)
            if error == 0:
                return 0
        else:
            error = -errno
    flow_map_free(self)
    return error


cdef void flow_map_free(flow_map_t *self) noexcept nogil:
    if self.uses != NULL:
        munmap(self.uses, self.n_uses * sizeof(flow_use_t))
    if self.lease_ns != NULL:
        munmap(self.lease_ns, sizeof(uint64_t))
    if self.lease_fd >= 0:
        close(self.lease_fd)
    if self.uses_fd >= 0:
        close(self.uses_fd)
    if self.flows >= 0:
        close(self.flows)
    self.uses = NULL
    self.lease_ns = NULL
    self.lease_fd = self.uses_fd = self.flows = -1


cdef bint _may_leave_by(const flow_map_t *self, uint32_t interface) noexcept nogil:
    cdef uint32_t i
    for i in range(self.n_interfaces):
        if self.interfaces[i] == interface:
            return True
    return False


cdef int flow_map_put(
    flow_map_t *self, const flow_key_t *key, const rewrite_t *rewrite
) noexcept nogil:
    if (
        rewrite.how > REWRITE_ENCAPSULATE
        or rewrite.use >= self.n_uses
        or not _may_leave_by(self, rewrite.interface)
    ):
        return FP_BAD
    if bpf_map_put(self.flows, key, rewrite) < 0:
        count(&self.full, 1)
        return FP_FULL
    count(&self.put, 1)
    return FP_OK


cdef int flow_map_delete(flow_map_t *self, const flow_key_t *key) noexcept nogil:
    if bpf_map_delete(self.flows, key) == -ENOENT:
        return FP_DONE
    count(&self.deleted, 1)
    return FP_OK


cdef void flow_map_clear(flow_map_t *self) noexcept nogil:
    cdef flow_key_t key
    cdef int result = 0
    # Another process that has the map may delete the key first.
    while (result == 0 or result == -ENOENT) and bpf_map_next(self.flows, NULL, &key) == 0:
        result = bpf_map_delete(self.flows, &key)
