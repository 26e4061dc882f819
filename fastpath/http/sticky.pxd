"""Clients that stay at a backend, by a cookie that names it to those who have the cluster's key."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastpath.abi cimport backend_t, route_t, text_t
from fastpath.http.http1 cimport head_t
from fastpath.loop cimport loop_t

# What the request's cookie of that name says; 0: there is none that could be one of ours.
cdef uint64_t sticky_read(const text_t *cookie, const head_t *head,
                          const uint8_t *data) noexcept nogil

# The usable backend of one of the route's targets that the token names; NULL: there is none.
cdef const backend_t *sticky_find(loop_t *loop, const route_t *route,
                                  uint64_t token) noexcept nogil

# Writes Set-Cookie; its size.
cdef size_t sticky_write(uint8_t *out, const route_t *route, uint64_t token) noexcept nogil
