"""Filters that let a request pass or not; each returns 0 or -refusal_t."""

from libc.stdint cimport uint32_t, uint64_t

from fastpath.http.filters.table cimport filters_t
from fastpath.http.framing cimport body_t
from fastpath.http.state cimport client_t
from fastpath.loop cimport loop_t
from fastpath.sys_linux cimport sockaddr_any_t

# allow_sources and deny_sources: who is in both is denied.
cdef int admission_source(const filters_t *filters, const sockaddr_any_t *source) noexcept nogil

# in_flight: at most so many exchanges of the route at a time, of all workers together. Counted on
# success, until admission_leave.
cdef int admission_enter(loop_t *loop, client_t *client, uint32_t most) noexcept nogil
# The exchange is over; harmless when it is said twice.
cdef void admission_leave(loop_t *loop, client_t *client) noexcept nogil

# body_limit: the length that the head gives, at once; chunks as they come (body_take).
cdef int admission_body(body_t *body, uint64_t size_max) noexcept nogil
