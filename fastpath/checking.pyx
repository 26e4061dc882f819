"""Credentials that workers want checked, for Python, and what Python says to that."""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

from fastpath.abi cimport FP_OK, PROTOCOL_HTTP
from fastpath.http.checks cimport ask_t, told_t
from fastpath.http.filters.credentials cimport (
    VERDICT_NEVER, VERDICT_NONE, VERDICT_RIGHT, VERDICT_WRONG, credentials_find, credentials_keep,
    credentials_t, verdict_t,
)
from fastpath.http.state cimport http_t
from fastpath.memory.ring cimport ring_put, ring_take
from fastpath.worker cimport worker_wake

import time

from fastpath.verifying import Ask


cdef http_t *http_at(worker_t *worker) noexcept nogil:
    return <http_t *>worker.loop.states[<int>PROTOCOL_HTTP]


cdef uint64_t now_ms():
    """As loop_t.now_ms."""
    return time.monotonic_ns() // 1_000_000


cdef object checking_key(common_t *common, bytes key):
    cdef credentials_t *credentials = <credentials_t *>common.credentials
    memcpy(credentials.key, <const char *>key, sizeof(credentials.key))


cdef list checking_take(worker_t **workers, int n_workers):
    cdef ask_t ask
    cdef int i
    asks = []
    for i in range(n_workers):
        while ring_take(&http_at(workers[i]).checks.asks, &ask) == FP_OK:
            asks.append(Ask(
                i,
                (<const uint8_t *>ask.digest)[:16],
                (<const uint8_t *>ask.users)[:16],
                ask.source,
                ask.asked_us / 1e6,
                ask.text[:ask.user_size],
                (<const uint8_t *>ask.text)[ask.user_size + 1:ask.user_size + 1
                                            + ask.password_size],
            ))
    return asks


cdef object checking_remembered(common_t *common, bytes digest):
    cdef uint64_t wanted[2]
    cdef verdict_t verdict
    memcpy(wanted, <const char *>digest, sizeof(wanted))
    verdict = credentials_find(<credentials_t *>common.credentials, wanted, now_ms())
    return None if verdict == VERDICT_NONE else verdict == VERDICT_RIGHT


cdef object checking_tell(common_t *common, worker_t *worker, bytes digest, object is_right):
    cdef told_t told
    memcpy(told.digest, <const char *>digest, sizeof(told.digest))
    told.verdict = VERDICT_NEVER
    if is_right is not None:
        told.verdict = VERDICT_RIGHT if is_right else VERDICT_WRONG
        credentials_keep(<credentials_t *>common.credentials, told.digest, is_right, now_ms())
    # When the ring is full a request is told in vain to wait no longer; the next one will find it.
    if ring_put(&http_at(worker).checks.told, &told) == FP_OK:
        worker_wake(worker)
