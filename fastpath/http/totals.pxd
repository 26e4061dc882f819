"""The counters of all workers, added up and named, for Engine.stats()."""

from fastpath.http.coders cimport coders_t
from fastpath.http.counters cimport duration_t, http_counters_t

cdef class HttpTotals:
    """Sums over workers."""

    cdef dict requests          # route slot -> {(method, code): n}
    cdef dict retries           # route slot -> (begun, denied)
    cdef dict durations         # route slot -> [buckets…, sum in microseconds]
    cdef dict refused           # reason -> n
    cdef dict copies            # COPY_NAMES -> n
    cdef dict compressed        # encoding -> [responses, bytes in, bytes out]
    cdef object overflow, waiting, checking, checks, compressing, crowded

    # Add one worker's counters.
    cdef object add(self, const http_counters_t *counters)
    cdef object add_coders(self, const coders_t *coders)
    cdef object add_duration(self, int slot, const duration_t *duration)
