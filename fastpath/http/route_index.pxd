"""The index of one gateway's routes (routes.pxd)."""

from libc.stdint cimport uint32_t, uint64_t

from fastpath.abi cimport route_t
from fastpath.http.routes cimport cell_t, route_index_t


cdef class RouteIndex:
    cdef route_index_t c
    cdef list elements          # of the nodes below the roots: (parent, route, where, size)

    # Of n routes in their order of precedence, filled in but for `next`; once.
    cdef object build(self, route_t *routes, Py_ssize_t n)
    cdef object put_hosts(self, route_t *routes, Py_ssize_t n, dict hosts)
    cdef object put_nodes(self, route_t *routes, Py_ssize_t n_hosts)
    cdef object put_route(self, route_t *route, Py_ssize_t host, Py_ssize_t node)
