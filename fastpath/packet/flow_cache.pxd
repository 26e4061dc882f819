"""The flow cache as a whole: programs, maps, and where they are attached. See flow_cache.pyi."""

from fastpath.packet.flow_map cimport FLOW_MAP_INTERFACES, flow_map_t


cdef class FlowCache:
    cdef flow_map_t map         # what the forwarder uses, as long as this object lives
    cdef int xdp                # programs' descriptors; owned
    cdef int tc
    cdef int tap
    cdef int links[FLOW_MAP_INTERFACES]     # descriptors; owned
    cdef int n_links
    cdef list deaf              # packet sockets that get what taps are not to have; owned
    cdef str pin                # folder in a BPF file system; "": nothing outlives the process
    cdef readonly bint adopted
    cdef readonly str mode
    cdef readonly str reason

    cdef void _detach(self) noexcept
