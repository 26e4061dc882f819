"""Python's tables -> the C tables that the workers read."""

from libc.stdint cimport uint32_t

from fastpath.abi cimport snapshot_t
from fastpath.sys_linux cimport sockaddr_any_t


cdef class Snapshot:
    """Owns one snapshot_t; free it when no worker can have it any more, by letting go of it."""

    cdef snapshot_t *c
    cdef dict maglev            # key -> Maglev: the tables that `c` points to
    cdef object route_tables    # owns the gateways and routes that `c` points to
    cdef list options           # each an OptionTable that `c` points to
    cdef dict filters           # fastpath.filters.Filters -> FilterTable that `c` points to


# Write a numeric address and a port, and return the size of the sockaddr; ValueError.
cdef uint32_t put_address(sockaddr_any_t *where, str address, int port) except 0
