"""The flow cache as a whole: programs, maps, and where they are attached. See flow_cache.pyi."""

from fastpath.packet.flow_map cimport flow_map_t


cdef class FlowCache:
    cdef flow_map_t map         # what the forwarder uses, as long as this object lives
    cdef int xdp                # programs' descriptors; owned
    cdef int tc
    cdef int tap
    cdef list links             # descriptors, one an interface; owned
    cdef readonly str mode
    cdef readonly str reason
