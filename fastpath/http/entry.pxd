"""What a gateway lets in and whom it believes, by its options. All functions take NULL for them."""

from libc.stdint cimport uint8_t

from fastpath.abi cimport gateway_t
from fastpath.http.http1 cimport head_t
from fastpath.http.options cimport options_t
from fastpath.http.request cimport request_t
from fastpath.http.state cimport client_t
from fastpath.loop cimport loop_t

# A connection begins: FP_OK, or -1 - REJECT_SERVICE or REJECT_CLIENT. What is counted is given back
# by entry_leave, whatever the tables say then.
cdef int entry_connection(loop_t *loop, client_t *client, const gateway_t *gateway) noexcept nogil
cdef void entry_leave(loop_t *loop, client_t *client) noexcept nogil

# A head is complete: its size, and names with underscores. 0 or -refusal_t.
cdef int entry_head(const options_t *options, head_t *head, const uint8_t *data) noexcept nogil

# A request is understood: who asks (`client.address`, `request.is_trusted`), and how long its body
# may be. 0 or -refusal_t.
cdef int entry_request(loop_t *loop, client_t *client, request_t *request,
                       const options_t *options) noexcept nogil
