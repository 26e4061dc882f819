"""A body on its way through an encoder: from its source as it comes, to its target in chunks.

In place of flow_pump for a flow that has a coder. It reads, decodes and compresses until a chunk is
full or the source pauses; what is there by then goes out, so a trickle is not held. Nothing is read
while a chunk waits: that is the back-pressure. Every byte goes through the encoder, none by a pipe.
"""

from fastpath.http.coders cimport coder_t
from fastpath.http.flow cimport flow_t, pump_t, stores_t
from fastpath.loop cimport endpoint_t, loop_t

# Send the body that way from here on: nothing of it was written, some of it may have been decoded.
cdef void coded_begin(flow_t *self, coder_t *coder) noexcept nogil

# As flow_pump, and PUMP_TROUBLE.
cdef pump_t coded_pump(loop_t *loop, stores_t *stores, flow_t *self, endpoint_t *source,
                       endpoint_t *target) noexcept nogil
