"""Our own answers, rendered when the module is imported."""

from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memcpy

from fastpath.http.forward cimport ENDING_CLOSE, ENDING_KEEP_10
from fastpath.http.http1 cimport REFUSALS

# Name of the reason (label of http_rejected_total), status, phrase, what the client reads; in the
# order of refusal_t.
REFUSAL_TABLE = (
    ("none", 500, "Internal Server Error", "internal error"),
    ("start-line", 400, "Bad Request", "malformed request line"),
    ("target", 400, "Bad Request", "malformed request target"),
    ("path", 400, "Bad Request", "malformed path"),
    ("field", 400, "Bad Request", "malformed header field"),
    ("host", 400, "Bad Request", "missing, repeated or malformed Host"),
    ("framing", 400, "Bad Request", "ambiguous Content-Length or Transfer-Encoding"),
    ("chunk", 400, "Bad Request", "malformed chunk"),
    ("method", 405, "Method Not Allowed", "method not allowed"),
    ("header-timeout", 408, "Request Timeout", "the request took too long"),
    ("body-timeout", 408, "Request Timeout", "the request's body took too long"),
    ("target-size", 414, "URI Too Long", "request target too long"),
    ("head-size", 431, "Request Header Fields Too Large", "too many or too long header fields"),
    ("no-backend", 500, "Internal Server Error", "the route has no backend"),
    ("coding", 501, "Not Implemented", "unknown transfer coding"),
    ("method-size", 501, "Not Implemented", "unknown method"),
    ("no-route", 404, "Not Found", "no route matches"),
    ("unavailable", 503, "Service Unavailable", "no backend is available"),
    ("busy", 503, "Service Unavailable", "too many requests"),
    ("connect", 502, "Bad Gateway", "no backend could be reached"),
    ("upstream", 502, "Bad Gateway", "the backend sent no valid response"),
    ("timeout", 504, "Gateway Timeout", "the backend took too long"),
    ("version", 505, "HTTP Version Not Supported", "only HTTP/1.0 and HTTP/1.1"),
)

REFUSAL_NAMES = tuple(row[0] for row in REFUSAL_TABLE)

cdef struct answer_t:
    uint8_t head[ANSWER_SIZE_MAX]   # without Connection and the empty line
    uint8_t body[ANSWER_SIZE_MAX]
    uint16_t head_size
    uint16_t body_size
    uint16_t status

cdef answer_t ANSWERS[<int>REFUSALS]


def _render():
    """Fill ANSWERS, once at import."""
    assert len(REFUSAL_TABLE) == REFUSALS
    for index, (_, status, phrase, text) in enumerate(REFUSAL_TABLE):
        body = f"{status} {text}\n".encode()
        head = (
            f"HTTP/1.1 {status} {phrase}\r\nContent-Type: text/plain; charset=utf-8\r\n"
            f"Content-Length: {len(body)}\r\n"
        ).encode()
        if status == 405:
            head += b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"
        memcpy(ANSWERS[index].head, <const uint8_t *>head, len(head))
        memcpy(ANSWERS[index].body, <const uint8_t *>body, len(body))
        ANSWERS[index].head_size = len(head)
        ANSWERS[index].body_size = len(body)
        ANSWERS[index].status = status


_render()


cdef uint16_t answer_status(refusal_t why) noexcept nogil:
    return ANSWERS[<int>why].status


cdef size_t answer_write(uint8_t *out, refusal_t why, bint is_head, ending_t ending) noexcept nogil:
    cdef const answer_t *answer = &ANSWERS[<int>why]
    cdef uint8_t *end = out
    memcpy(end, answer.head, answer.head_size)
    end += answer.head_size
    if ending == ENDING_CLOSE:
        memcpy(end, b"Connection: close\r\n", 19)
        end += 19
    elif ending == ENDING_KEEP_10:
        memcpy(end, b"Connection: keep-alive\r\n", 24)
        end += 24
    memcpy(end, b"\r\n", 2)
    end += 2
    if not is_head:
        memcpy(end, answer.body, answer.body_size)
        end += answer.body_size
    return end - out
