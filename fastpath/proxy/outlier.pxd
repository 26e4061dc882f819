"""Backends that fail those who connect to them, and so are passed over for a while.

Failures in a row are counted over all workers: connections that were refused or timed out, broke
before the backend had said anything, or came back as an ICMP error. With `eject_failures` of them
the backend is ejected for `eject_ms`. After that it is tried again: with the next failure it is
ejected at once and for longer, up to EJECT_TIMES as long, with an answer all is forgotten.

A choice passes over half of the service's usable backends at most, the first in their order: so
whoever ejects them, all at one moment or a worker each, the others stay.
"""

from libc.stdint cimport int32_t, uint16_t, uint64_t

from fastpath.abi cimport MAX_BACKENDS, backend_t, common_t, outlier_t, service_t
from fastpath.atomics cimport load_relaxed, load_signed, store_relaxed, store_signed
from fastpath.loop cimport loop_t


cdef enum:
    EJECT_TIMES = 10
    EJECT_MS_MAX = 300000       # but for an `eject_ms` that is longer

# A connection or request came to nothing, and it was the backend's fault. Call it while the socket
# still counts as open: a slot without sockets may be given to another backend.
cdef void outlier_failed(loop_t *loop, uint16_t slot) noexcept nogil

# Index of the last backend of the service that a choice passes over as ejected; -1: none.
cdef int32_t outlier_last(
    const common_t *common, const service_t *service, uint64_t now_ms
) noexcept nogil

# Whether that is so of this one.
cdef bint outlier_is_passed_over(
    const common_t *common, const service_t *service, const backend_t *backend, uint64_t now_ms
) noexcept nogil

# The backend with that slot is another one, or another place, or checks found it well.
cdef void outlier_forget(common_t *common, uint16_t slot) noexcept nogil


cdef inline bint outlier_is_ejected(
    const common_t *common, const backend_t *backend, uint64_t now_ms
) noexcept nogil:
    """Whether its time is not over; a choice passes over those up to outlier_last."""
    return load_relaxed(&common.outliers[backend.slot].until_ms) > now_ms


cdef inline void outlier_answered(loop_t *loop, uint16_t slot) noexcept nogil:
    """The backend has sent something. What was under way when it was ejected changes nothing."""
    cdef outlier_t *outlier
    if slot >= MAX_BACKENDS:
        return
    outlier = &loop.common.outliers[slot]
    if load_signed(&outlier.failures) != 0:
        store_signed(&outlier.failures, 0)
    if load_relaxed(&outlier.ejections) != 0 and load_relaxed(&outlier.until_ms) <= loop.now_ms:
        store_relaxed(&outlier.ejections, 0)
