"""forward_auth: another service is asked whether a request may go on (subrequest.pxd)."""

from fastpath.abi cimport route_t
from fastpath.http.filters.table cimport forward_auth_t
from fastpath.http.request cimport request_t
from fastpath.http.state cimport client_t
from fastpath.loop cimport loop_t

# Renders the question about a request that is as it came, to be asked when it is about to go; hides
# the fields that only the answer may add. 0 or -refusal_t.
cdef int forward_auth_prepare(loop_t *loop, client_t *client, request_t *request,
                              const forward_auth_t *auth, const route_t *route) noexcept nogil
