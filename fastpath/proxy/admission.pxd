"""Whether a client's connection or session may begin, and what it must give back at its end.

Checks in this order: `allowed_sources`, the service's own limit, the limit of one client. The two
counts are over all workers. A connection is counted whether or not there is a limit then, but for
the client's, which is counted only while there is one: a reload that sets it has those connections
count that begin from then on.
"""

from libc.stdint cimport uint8_t, uint16_t

from fastpath.abi cimport service_t
from fastpath.loop cimport loop_t
from fastpath.proxy.clients cimport known_client_t
from fastpath.sys_linux cimport sockaddr_any_t


cdef struct admitted_t:         # part of a connection; zeroed: holds nothing
    known_client_t *client      # where its client is counted; NULL: it is not
    uint16_t service_slot
    uint8_t counted             # in common_t.service_open


# `client`: who it really is, told by a PROXY header maybe. FP_OK: say admission_leave at its end,
# whatever the tables say then. Else -1 - REJECT_SOURCE, REJECT_SERVICE or REJECT_CLIENT, `admitted`
# holds nothing, and the caller counts the reason.
cdef int admission_enter(
    loop_t *loop,
    const service_t *service,
    const sockaddr_any_t *client,
    admitted_t *admitted,
) noexcept nogil
# The connection has ended; harmless on what holds nothing.
cdef void admission_leave(loop_t *loop, admitted_t *admitted) noexcept nogil
