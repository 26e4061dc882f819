"""Requests that wait for Python to check their credentials."""

from libc.string cimport memset

from fastpath.abi cimport FP_FULL, FP_OK
from fastpath.http.filters.credentials cimport VERDICT_NONE
from fastpath.loop cimport loop_again
from fastpath.memory.ring cimport ring_free, ring_init, ring_take
from fastpath.memory.slab cimport slab_free, slab_get, slab_init, slab_put


cdef int checks_init(checks_t *self) noexcept nogil:
    if (slab_init(&self.memory, CHECKS_MAX, sizeof(check_t)) != FP_OK
            or ring_init(&self.asks, CHECKS_MAX, sizeof(ask_t)) != FP_OK
            or ring_init(&self.told, CHECKS_MAX, sizeof(told_t)) != FP_OK):
        return FP_FULL
    return FP_OK


cdef void checks_free(checks_t *self) noexcept nogil:
    ring_free(&self.asks)
    ring_free(&self.told)
    slab_free(&self.memory)


cdef inline bint is_about(const check_t *check, const uint64_t *digest) noexcept nogil:
    return (check.digest[0] == digest[0] and check.digest[1] == digest[1]
            and check.verdict == VERDICT_NONE)


cdef bint checks_has(const checks_t *self, const uint64_t *digest) noexcept nogil:
    cdef const check_t *check = self.first
    while check != NULL:
        if is_about(check, digest):
            return True
        check = check.next
    return False


cdef check_t *checks_enter(checks_t *self, uint64_t source) noexcept nogil:
    cdef check_t *check = self.first
    cdef int n = 0
    while check != NULL:
        n += check.source == source
        check = check.next
    if n >= CHECKS_PER_SOURCE:
        return NULL
    check = <check_t *>slab_get(&self.memory)
    if check == NULL:
        return NULL
    memset(check, 0, sizeof(check_t))
    check.source = source
    check.next = self.first
    if check.next != NULL:
        check.next.previous = check
    self.first = check
    return check


cdef void checks_leave(checks_t *self, check_t *check) noexcept nogil:
    if check.next != NULL:
        check.next.previous = check.previous
    if check.previous != NULL:
        check.previous.next = check.next
    else:
        self.first = check.next
    slab_put(&self.memory, check)


cdef void checks_hear(loop_t *loop, checks_t *self) noexcept nogil:
    cdef told_t told
    cdef check_t *check
    while ring_take(&self.told, &told) == FP_OK:
        check = self.first
        while check != NULL:
            if is_about(check, told.digest):
                check.verdict = <uint8_t>told.verdict
                loop_again(loop, check.io)
            check = check.next
