"""The kernel's maps, programs and links, by bpf(2) itself: no library is needed on a Pi.

Each function returns a descriptor, which the caller owns, or 0, or a negative errno. Names are cut
to 15 characters by the kernel's rule. Descriptors close when a program is executed.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t


# linux/bpf.h; its numbers never change, and the headers where wheels are built are older.
cdef enum:
    BPF_MAP_TYPE_HASH = 1
    BPF_MAP_TYPE_ARRAY = 2
    BPF_F_NO_PREALLOC = 1 << 0
    BPF_F_MMAPABLE = 1 << 10
    BPF_PROG_TYPE_SOCKET_FILTER = 1
    BPF_PROG_TYPE_SCHED_CLS = 3
    BPF_PROG_TYPE_XDP = 6
    BPF_XDP = 37                # where a link or a program is attached
    BPF_TCX_INGRESS = 46
    BPF_LD_IMM64 = 0x18         # the first byte of an instruction that loads 8 bytes
    BPF_PSEUDO_MAP_FD = 1       # upper half of its second byte: they are a map's descriptor
    XDP_FLAGS_SKB_MODE = 1 << 1
    XDP_FLAGS_DRV_MODE = 1 << 2


cdef struct bpf_run_t:          # one call of bpf_program_run
    const uint8_t *frame        # borrowed
    uint8_t *result             # borrowed; where what becomes of the frame is put
    void *context               # borrowed; xdp_md or __sk_buff to begin with, or NULL
    uint32_t frame_size
    uint32_t result_size        # room; afterwards what was put there
    uint32_t context_size
    uint32_t repeat
    uint32_t verdict            # what the program returned
    uint32_t run_ns             # on average


cdef struct bpf_map_shape_t:    # struct bpf_map_info, as far as it is asked for
    uint32_t kind
    uint32_t number
    uint32_t key_size
    uint32_t value_size
    uint32_t n
    uint32_t flags


cdef int bpf_map_new(
    uint32_t kind, uint32_t key_size, uint32_t value_size, uint32_t n, uint32_t flags,
    const char *name,
) noexcept nogil
cdef int bpf_map_put(int map, const void *key, const void *value) noexcept nogil
cdef int bpf_map_get(int map, const void *key, void *value) noexcept nogil
cdef int bpf_map_delete(int map, const void *key) noexcept nogil
# The key after `key`, or the first one after NULL; -ENOENT after the last.
cdef int bpf_map_next(int map, const void *key, void *following) noexcept nogil

cdef int bpf_map_shape(int map, bpf_map_shape_t *shape) noexcept nogil

# `where`: 0, or BPF_XDP for an XDP program. The verifier's words go to `log`, which may be NULL.
cdef int bpf_program_new(
    uint32_t kind, uint32_t where, const uint64_t *code, uint32_t n, const char *name,
    char *log, uint32_t log_size,
) noexcept nogil
# Let a program have a frame that no interface has seen.
cdef int bpf_program_run(int program, bpf_run_t *run) noexcept nogil
# The name of a loaded program in `name`, 16 bytes; needs CAP_SYS_ADMIN.
cdef int bpf_program_name(uint32_t number, char *name) noexcept nogil

# The program runs there until the descriptor is closed, by whatever end of the process.
cdef int bpf_link_new(
    int program, uint32_t interface, uint32_t where, uint32_t flags
) noexcept nogil
# Have a link run another program from now on, without a gap.
cdef int bpf_link_update(int link, int program) noexcept nogil

# It runs no longer when this returns, whoever else has the link.
cdef int bpf_link_detach(int link) noexcept nogil

# A map or link outlives who made it as long as it has a path in a BPF file system.
cdef int bpf_pin(int fd, const char *path) noexcept nogil
cdef int bpf_pinned(const char *path) noexcept nogil
