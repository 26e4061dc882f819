"""Backends that fail those who connect to them, and so are passed over for a while."""

from libc.stdint cimport int64_t

from fastpath.atomics cimport add_shared, count, replace_relaxed


cdef uint64_t _length_ms(const service_t *service, uint64_t ejections) noexcept nogil:
    """How long the backend stays away that was ejected `ejections` times before."""
    cdef uint64_t first = service.eject_ms
    cdef uint64_t length = first * min(ejections + 1, <uint64_t>EJECT_TIMES)
    return max(first, min(length, <uint64_t>EJECT_MS_MAX))


cdef void outlier_failed(loop_t *loop, uint16_t slot) noexcept nogil:
    cdef const backend_t *backend = NULL
    cdef const service_t *service
    cdef outlier_t *outlier
    cdef uint64_t until, ejections
    cdef int64_t failures
    if slot < MAX_BACKENDS:
        backend = loop.snapshot.backend_of_slot[slot]
    if backend == NULL:
        return
    service = loop.snapshot.service_of_slot[backend.service_slot]
    outlier = &loop.common.outliers[slot]
    until = load_relaxed(&outlier.until_ms)
    if service.eject_failures == 0 or until > loop.now_ms:
        return                  # those under way when it was ejected do not count
    failures = add_shared(&outlier.failures, 1)
    ejections = load_relaxed(&outlier.ejections)
    if ejections == 0 and failures < service.eject_failures:
        return
    # One of those who get here at the same time ejects it.
    if replace_relaxed(
        &outlier.until_ms, &until, loop.now_ms + _length_ms(service, ejections)
    ):
        store_relaxed(&outlier.ejections, ejections + 1)
        store_signed(&outlier.failures, 0)
        count(&loop.counters.backends[slot].ejections, 1)


cdef int32_t outlier_last(
    const common_t *common, const service_t *service, uint64_t now_ms
) noexcept nogil:
    cdef int32_t last = -1
    cdef uint16_t left = service.n_usable // 2 if service.eject_failures != 0 else 0
    cdef uint16_t i
    for i in range(service.n_backends):
        if left == 0:
            break
        if service.backends[i].usable and outlier_is_ejected(
            common, &service.backends[i], now_ms
        ):
            left -= 1
            last = i
    return last


cdef bint outlier_is_passed_over(
    const common_t *common, const service_t *service, const backend_t *backend, uint64_t now_ms
) noexcept nogil:
    if not outlier_is_ejected(common, backend, now_ms):
        return False
    return backend - service.backends <= outlier_last(common, service, now_ms)


cdef void outlier_forget(common_t *common, uint16_t slot) noexcept nogil:
    store_signed(&common.outliers[slot].failures, 0)
    store_relaxed(&common.outliers[slot].ejections, 0)
    store_relaxed(&common.outliers[slot].until_ms, 0)
