"""One choice of a backend: who is passed over and why, and what each policy says of the others.

All but smooth weighted round robin are functions of what they are given: the flow's hash is their
only chance. That one remembers, by worker and backend, how far behind its share each is.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastpath.abi cimport MAX_TRIES, backend_counters_t, common_t, service_t


# Why a choice passes over a backend.
cdef enum pass_t:
    PASS_NOT = 0
    PASS_UNUSABLE               # down, or weight 0
    PASS_TRIED
    PASS_EJECTED                # passive health checking
    PASS_SLOW                   # back for a short time: not this flow's turn yet


cdef struct tries_t:            # the backends tried so far; zeroed = none
    uint16_t slots[MAX_TRIES]
    uint8_t n


cdef struct choice_t:
    const service_t *service    # this and all other pointers are borrowed
    const common_t *common      # failures, and the counters of all workers
    backend_counters_t *own     # by slot: this worker's
    const tries_t *tries
    uint64_t hash               # of the flow, the client or the request
    uint64_t now_ms
    int32_t ejected_last        # outlier_last; -2: not asked for yet
    uint8_t lenience            # 1: passes over nobody as PASS_SLOW, 2: nor as PASS_EJECTED


cdef void choice_init(
    choice_t *self, const service_t *service, const common_t *common, backend_counters_t *own,
    const tries_t *tries, uint64_t hash, uint64_t now_ms,
) noexcept nogil

# Index of the backend, or -1: all usable ones were tried. With `affinity` it is the hash that
# chooses, whatever the policy.
cdef int32_t choice_make(choice_t *self) noexcept nogil

# Whether and why the backend with that index is passed over.
cdef pass_t choice_passes(choice_t *self, uint32_t index) noexcept nogil

# What part of its share a backend gets that came back at `returned_ms`, in 1/65536.
cdef uint32_t slow_start_share(
    uint64_t returned_ms, uint32_t slow_start_ms, uint64_t now_ms
) noexcept nogil

# Connections, sessions and requests that the backend serves now, of all workers.
cdef int64_t connections_of(const common_t *common, uint16_t slot) noexcept nogil
