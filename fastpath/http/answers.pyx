"""Our own answers, rendered when the module is imported."""

from libc.stdint cimport uint8_t
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
    ("queue-full", 503, "Service Unavailable", "too many requests wait for the service"),
    ("queue-timeout", 503, "Service Unavailable", "the service was busy for too long"),
    ("busy", 503, "Service Unavailable", "too many requests"),
    ("connect", 502, "Bad Gateway", "no backend could be reached"),
    ("upstream", 502, "Bad Gateway", "the backend sent no valid response"),
    ("timeout", 504, "Gateway Timeout", "the backend took too long"),
    ("version", 505, "HTTP Version Not Supported", "only HTTP/1.0 and HTTP/1.1"),
    ("source", 403, "Forbidden", "not for your address"),
    ("rate", 429, "Too Many Requests", "too many requests in this time"),
    ("in-flight", 503, "Service Unavailable", "too many requests at a time"),
    ("body-size", 413, "Content Too Large", "the request's body is too large"),
    ("credentials", 401, "Unauthorized", "a user name and its password are needed"),
    ("checks-busy", 503, "Service Unavailable", "too many passwords are being checked"),
    ("checks-rate", 429, "Too Many Requests", "too many passwords from your address"),
    ("respond", 500, "Internal Server Error", "a filter's own answer"),
    ("redirect", 500, "Internal Server Error", "a filter's own answer"),
    ("preflight", 500, "Internal Server Error", "a filter's own answer"),
)

REFUSAL_NAMES = tuple(row[0] for row in REFUSAL_TABLE)

cdef answer_t ANSWERS[<int>REFUSALS]

# Keeps the bytes that ANSWERS point to.
_TEXTS = []


def render(status, phrase, content_type, body, *lines):
    """The head of an answer, but for Connection and the empty line, as bytes."""
    if content_type:
        lines = (f"Content-Type: {content_type}", f"Content-Length: {len(body)}", *lines)
    return "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status} {phrase}", *lines)).encode()


def _fill_answers():
    """Fill ANSWERS, once at import."""
    assert len(REFUSAL_TABLE) == REFUSALS
    for index, (_, status, phrase, text) in enumerate(REFUSAL_TABLE):
        body = f"{status} {text}\n".encode()
        allow = ("Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",) if status == 405 else ()
        head = render(status, phrase, "text/plain; charset=utf-8", body, *allow)
        _TEXTS.extend((head, body))
        ANSWERS[index].head.data = <const uint8_t *>head
        ANSWERS[index].head.size = len(head)
        ANSWERS[index].body.data = <const uint8_t *>body
        ANSWERS[index].body.size = len(body)
        ANSWERS[index].status = status


_fill_answers()


cdef const answer_t *answer_of(refusal_t why) noexcept nogil:
    return &ANSWERS[<int>why]


cdef size_t answer_write(uint8_t *out, const answer_t *answer, const reply_t *reply, bint is_head,
                         ending_t ending) noexcept nogil:
    cdef uint8_t *end = out
    memcpy(end, answer.head.data, answer.head.size)
    end += answer.head.size
    memcpy(end, reply.fields, reply.fields_size)
    end += reply.fields_size
    if ending == ENDING_CLOSE:
        memcpy(end, b"Connection: close\r\n", 19)
        end += 19
    elif ending == ENDING_KEEP_10:
        memcpy(end, b"Connection: keep-alive\r\n", 24)
        end += 24
    memcpy(end, b"\r\n", 2)
    end += 2
    if not is_head and answer.body.size > 0:
        memcpy(end, answer.body.data, answer.body.size)
        end += answer.body.size
    return end - out
