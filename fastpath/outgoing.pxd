"""Sockets to backends: where they come from, and how long they wait for who is gone.

A connection is told by four things: two addresses, two ports. Towards one backend a source address
has as many ports as net.ipv4.ip_local_port_range says, TIME-WAIT included; towards another backend
it has all of them again, as long as connect chooses the port, which knows the backend. So a port is
never bound, and what multiplies the ports towards one backend is `service_t.sources`.
"""

from libc.stdint cimport uint64_t

from fastpath.abi cimport backend_t, service_t

# A socket that is connecting, in `fd`. FP_OK; else `fd` is closed: FP_FULL no descriptor, FP_BAD
# refused at once, FP_PORTS every port towards that backend is taken, or no source address is ours.
# Of several sources of the backend's family the hash says which comes first; one whose ports are
# taken is passed over. Without any the kernel chooses.
cdef int outgoing_open(
    const service_t *service, const backend_t *backend, uint64_t hash, int *fd
) noexcept nogil
# The same for UDP, which is connected at once: FP_OK says nothing of the backend.
cdef int outgoing_open_datagrams(
    const service_t *service, const backend_t *backend, uint64_t hash, int *fd
) noexcept nogil
