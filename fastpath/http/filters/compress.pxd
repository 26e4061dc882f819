"""compress: responses in a content coding that the client takes (RFC 9110, 8.4 and 12.5.3).

What the client takes is noted in `client.encoding` when its request comes; whether a response is
compressed is decided when its head is complete.
"""

from libc.stdint cimport uint8_t

from fastpath.abi cimport text_t
from fastpath.http.filters.table cimport filters_t
from fastpath.http.http1 cimport head_t
from fastpath.http.state cimport client_t, http_t

cdef enum:
    COMPRESS_FROM = 1024        # bytes of a body whose length is known

# Which of the route's encodings a request gets: the one that it gives the most weight, and of those
# with the same weight the route's first. ENCODING_NONE: it would rather have none.
cdef uint8_t compress_wanted(const filters_t *filters, const head_t *head,
                             const uint8_t *data) noexcept nogil

# The head of a final response is in `client.head`, its fields taken out that filters take out;
# `lines` and `more_lines` are those that they put in, or NULL. Hides the fields that compressing
# makes wrong, begins, and says in http_t.compressed which fields are to be added.
cdef void compress_response(http_t *http, client_t *client, const text_t *lines,
                            const text_t *more_lines) noexcept nogil

# Writes those fields; the end of them.
cdef uint8_t *compress_put(uint8_t *out, const http_t *http, const client_t *client) noexcept nogil
