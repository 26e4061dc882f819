"""Messages, mutated, through everything that reads and writes them; built with PIAGENT_PROBE=1
only.

However the bytes arrive the outcome is the same; what is sent on reads the same for us and for a
reader that is too simple to be wrong, and sent on once more it is the same bytes.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset, strlen

from fastpath.http.forward cimport (
    ENDING_KEEP, FORWARD_SIZE_MAX, forward_request, forward_response, forward_trailers,
)
from fastpath.http.forwarded cimport peer_init, peer_t
from fastpath.http.framing cimport (
    BODY_CHUNKED, BODY_DONE, BODY_MORE, BODY_NONE, BODY_TRAILERS, BODY_UNTIL_CLOSE, body_t,
    body_take, connection_options, options_t, response_framing,
)
from fastpath.http.http1 cimport (
    HEAD_DONE, HEAD_MORE, HEAD_REQUEST, HEAD_RESPONSE, HEAD_TRAILERS, REFUSE_CHUNK, head_init,
    head_scan, head_t,
)
from fastpath.http.request cimport request_read, request_t
from fastpath.memory._fuzz cimport Fuzz
from fastpath.memory.slab cimport fp_forbid, fp_permit
from fastpath.sys_linux cimport AF_INET, htons, sockaddr_any_t


cdef enum:
    RAW_MAX = 16384
    CHUNK_LINE_MAX = 4096       # as the engine has it
    EXTENSION_MAX = 2500        # two of them are longer than a line may be
    REQUEST = 0
    RESPONSE = 1

cdef struct outcome_t:          # of reading one message
    int code                    # HEAD_DONE, or how far it came
    int body_code
    uint16_t pos
    size_t used                 # bytes of the body as they came
    size_t body_size
    size_t trailers_size
    size_t head_size            # as it is sent on
    uint16_t path_size
    uint8_t body_kind
    uint64_t remaining          # of the body when the head was read
    uint8_t *head               # owned: FORWARD_SIZE_MAX
    uint8_t *trailers           # owned: FORWARD_SIZE_MAX
    uint8_t *body               # owned: RAW_MAX

cdef const char *PIECES = b"\r\n \t:;,=\"/\\%._-+#?*@\x00\x7f\x80\xff0123aAfFgGxX"
cdef enum: N_PIECES = 36

cdef const char *METHODS[8]
METHODS[:] = [b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"CONNECT", b"TRACE", b"M-SEARCH"]
cdef const char *TARGETS[12]
TARGETS[:] = [
    b"/", b"/a/b", b"/a//b/./c/../d", b"/%41%2f%5c%zz", b"/a?b=c&d", b"*", b"http://a/x",
    b"http://a", b"/..", b"/a%2e%2e/b", b"a:80", b"/%2e%2E/%2e/x;y=1",
]
cdef const char *VERSIONS[5]
VERSIONS[:] = [b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0"]
cdef const char *STATUSES[8]
STATUSES[:] = [
    b"HTTP/1.1 200 OK", b"HTTP/1.1 204 No Content", b"HTTP/1.1 304", b"HTTP/1.0 200 OK",
    b"HTTP/1.1 100 Continue", b"HTTP/1.1 404 Not here at all", b"HTTP/1.1 599 ", b"HTTP/1.1 99 x",
]
cdef const char *FIELDS[32]
FIELDS[:] = [
    b"Host: a", b"host:b.example:8080", b"Content-Length: 5", b"Content-Length: 005",
    b"content-length:5, 5", b"Content-Length: +5", b"Transfer-Encoding: chunked",
    b"transfer-encoding:\tChunked ", b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: chunked, identity", b"Transfer_Encoding: chunked",
    b"Connection: close", b"Connection: keep-alive, X-A", b"Connection: Upgrade",
    b"Connection: Host, Content-Length", b"Upgrade: websocket", b"TE: trailers", b"TE: gzip",
    b"Trailer: X-T", b"Expect: 100-continue", b"X-A: 1", b"X-A:", b"X-A: \x80\xff\tb ",
    b"X_Under: 1", b"X-Forwarded-For: 6.6.6.6", b"X_Forwarded-For: 6.6.6.6", b"Forwarded: for=x",
    b"X-Real-Ip: 6.6.6.6", b"Proxy-Authorization: x", b"Keep-Alive: timeout=5",
    b"Cookie: a=b; c=d", b"User-Agent: something of a length that a block of bytes does not hold",
]
cdef const char *BODIES[9]
BODIES[:] = [
    b"", b"hello", b"0\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n", b"5;a=b;c=\"d\"\r\nhello\r\n0\r\n\r\n",
    b"3\r\nabc\r\n2\r\nde\r\n0\r\nX-T: 1\r\n\r\n",
    b"A\r\n0123456789\r\n00\r\nContent-Length: 1\r\n\r\n",
    b"10\r\n0123456789abcdef\r\n01a;x\r\n0123456789abcdefghijklmnop\r\n0\r\n\r\n",
    b"5\r\nhelloGET / HTTP/1.1\r\nHost: b\r\n\r\n",
]


cdef bint _begins(const uint8_t *line, size_t size, const char *name) noexcept nogil:
    """Whether a line begins with a name in lower case and a colon."""
    cdef size_t n = strlen(name)
    cdef size_t i
    if size <= n or line[n] != c":":
        return False
    for i in range(n):
        if (line[i] | 0x20) != <uint8_t>name[i]:
            return False
    return True


cdef class MessagesFuzz(Fuzz):
    """One message a step."""

    cdef uint32_t changes_max
    cdef uint32_t kind
    cdef bint is_head           # the response is one to HEAD
    cdef uint8_t *raw           # RAW_MAX, as all that are owned
    cdef uint8_t *buffer        # what has arrived of it
    cdef size_t size
    cdef size_t given           # bytes that have arrived
    cdef outcome_t one
    cdef outcome_t other
    cdef peer_t peer
    cdef head_t head
    cdef request_t request

    def __cinit__(self, *, seed, changes_max):
        cdef sockaddr_any_t address
        memset(&address, 0, sizeof(address))
        address.v4.sin_family = AF_INET
        address.v4.sin_port = htons(80)
        peer_init(&self.peer, &address, &address)
        self.changes_max = changes_max
        self.raw = <uint8_t *>malloc(RAW_MAX)
        self.buffer = <uint8_t *>malloc(2 * FORWARD_SIZE_MAX)
        self._get(&self.one)
        self._get(&self.other)
        if self.raw == NULL or self.buffer == NULL or self.one.head == NULL:
            raise MemoryError

    cdef _get(self, outcome_t *outcome):
        outcome.head = <uint8_t *>malloc(FORWARD_SIZE_MAX)
        outcome.trailers = <uint8_t *>malloc(FORWARD_SIZE_MAX)
        outcome.body = <uint8_t *>malloc(RAW_MAX)

    cdef _put(self, outcome_t *outcome):
        free(outcome.head)
        free(outcome.trailers)
        free(outcome.body)

    def __dealloc__(self):
        fp_permit(self.buffer, 2 * FORWARD_SIZE_MAX)
        self._put(&self.one)
        self._put(&self.other)
        free(self.raw)
        free(self.buffer)

    cdef void step(self) noexcept nogil:
        self._make()
        self._mutate(self.roll(self.changes_max + 1))
        self._read(&self.one, self.raw, self.size, False)
        self._read(&self.other, self.raw, self.size, True)
        self._compare()
        if self.one.code == HEAD_DONE:
            self._look_at_raw()
            self._look_at_head(self.one.head, self.one.head_size)
            if self.kind == REQUEST:
                self._look_at_path()
                self._send_on_again()
            if self.one.body_code == BODY_TRAILERS:
                self._look_at_chunks()
            elif self.one.body_kind == BODY_CHUNKED:
                self.expect(not self._are_plain_chunks() or self.one.body_code < 0
                            and self.one.body_code != -REFUSE_CHUNK, b"plain chunks are refused")

    # ---- what comes in ----

    cdef void _add(self, const char *text) noexcept nogil:
        cdef size_t n = strlen(text)
        memcpy(self.raw + self.size, text, n)
        self.size += n

    cdef void _make(self) noexcept nogil:
        cdef uint32_t n = 1 + self.roll(8)
        self.size = 0
        self.kind = self.roll(3) // 2
        self.is_head = self.roll(8) == 0
        if self.kind == REQUEST:
            if self.roll(32):
                self._add(METHODS[self.roll(8)])
            self._add(b" ")
            if self.roll(32):
                self._add(TARGETS[self.roll(12)])
            self._add(b" ")
            self._add(VERSIONS[self.roll(5)])
            self._add(b"\r\n")
            if self.roll(8):
                self._add(b"Host: a\r\n")
        else:
            self._add(STATUSES[self.roll(8)])
            self._add(b"\r\n")
        while n > 0:
            n -= 1
            self._add(FIELDS[self.roll(32)])
            self._add(b"\r\n")
        if self.roll(32) == 0:
            self._add(b"Transfer-Encoding: chunked\r\n\r\n")
            self._add_long_chunks()
        else:
            self._add(b"\r\n")
            self._add(BODIES[self.roll(9)])
        if self.roll(4) == 0:
            self._add(b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n")

    cdef void _add_long_chunks(self) noexcept nogil:
        """Of two digits each, most with an extension."""
        cdef const uint8_t *digits = b"0123456789abcdef"
        cdef uint32_t n = 1 + self.roll(4)
        cdef uint32_t size
        while n > 0:
            n -= 1
            size = 1 + self.roll(60)
            self.raw[self.size] = <uint8_t>(0x30 + size // 16)
            self.raw[self.size + 1] = digits[size % 16]
            self.size += 2
            if self.roll(4):
                self._add(b";")
                self._add_letters(1 + self.roll(EXTENSION_MAX))
            self._add(b"\r\n")
            self._add_letters(size)
            self._add(b"\r\n")
        self._add(b"0\r\n\r\n")

    cdef void _add_letters(self, uint32_t n) noexcept nogil:
        memset(self.raw + self.size, c"x", n)
        self.size += n

    cdef void _mutate(self, uint32_t n) noexcept nogil:
        """Change, take out, put in or double some bytes."""
        cdef uint32_t what, at, size
        while n > 0 and self.size > 64:
            n -= 1
            what = self.roll(4)
            at = self.roll(<uint32_t>self.size)
            size = 1 + (self.roll(40) if what == 3 else self.roll(2))
            if at + size > self.size or self.size + size > RAW_MAX:
                continue
            if what == 0:
                self.raw[at] = <uint8_t>PIECES[self.roll(N_PIECES)]
            elif what == 1:
                self._move(at + size, at)
            else:
                self._move(at, at + size)
                if what == 2:
                    while size > 0:
                        size -= 1
                        self.raw[at + size] = <uint8_t>PIECES[self.roll(N_PIECES)]

    cdef void _move(self, uint32_t start, uint32_t to) noexcept nogil:
        """Move what is from `start` on; where it was stays as it is."""
        cdef size_t n = self.size - start
        cdef size_t i
        for i in range(n):
            if to < start:
                self.raw[to + i] = self.raw[start + i]
            else:
                self.raw[to + n - 1 - i] = self.raw[start + n - 1 - i]
        self.size = to + n

    # ---- read ----

    cdef void _give(self, const uint8_t *data, size_t size, bint in_pieces) noexcept nogil:
        """More of it arrives; AddressSanitizer stops who looks at what has not."""
        cdef size_t n = size - self.given
        if in_pieces and n > 1:
            n = 1 + self.roll(<uint32_t>(n if self.roll(4) else min(n, <size_t>4)))
        fp_permit(self.buffer, self.given + n)
        memcpy(self.buffer + self.given, data + self.given, n)
        self.given += n

    cdef void _read(self, outcome_t *out, const uint8_t *data, size_t size,
                    bint in_pieces) noexcept nogil:
        cdef body_t body
        out.code = HEAD_MORE
        out.body_code = BODY_MORE
        out.used = out.body_size = out.trailers_size = out.head_size = 0
        self.given = 0
        fp_forbid(self.buffer, 2 * FORWARD_SIZE_MAX)
        head_init(&self.head, HEAD_REQUEST if self.kind == REQUEST else HEAD_RESPONSE)
        while out.code == HEAD_MORE and self.given < size:
            self._give(data, size, in_pieces)
            out.code = head_scan(&self.head, self.buffer, self.given)
        if out.code != HEAD_DONE:
            return
        out.pos = self.head.pos
        if self.kind == REQUEST:
            self._read_request(out, &body)
        else:
            self._read_response(out, &body)
        if out.code != HEAD_DONE:
            return
        out.body_kind = body.kind
        out.remaining = body.remaining
        self._read_body(out, &body, data, size, in_pieces)

    cdef void _read_request(self, outcome_t *out, body_t *body) noexcept nogil:
        cdef int code = request_read(&self.request, &self.head, self.buffer, 0)
        if code < 0:
            out.code = code
            return
        body[0] = self.request.body
        out.path_size = self.request.path_size
        out.head_size = forward_request(out.head, &self.request, &self.head, self.buffer,
                                        &self.peer, NULL)

    cdef void _read_response(self, outcome_t *out, body_t *body) noexcept nogil:
        cdef options_t options
        cdef bint as_chunks
        cdef int code = response_framing(&self.head, self.buffer, self.is_head, body)
        if code == 0:
            code = connection_options(&self.head, self.buffer, &options)
        if code < 0:
            out.code = code
            return
        as_chunks = body.kind == BODY_CHUNKED or body.kind == BODY_UNTIL_CLOSE
        out.head_size = forward_response(out.head, &self.head, self.buffer, NULL, body, as_chunks,
                                         ENDING_KEEP)

    cdef void _read_body(self, outcome_t *out, body_t *body, const uint8_t *data, size_t size,
                         bint in_pieces) noexcept nogil:
        cdef size_t at = out.pos
        cdef size_t used, produced
        if body.kind == BODY_NONE:
            out.body_code = BODY_DONE
            return
        while out.body_code == BODY_MORE and (at < self.given or self.given < size):
            if at == self.given:
                self._give(data, size, in_pieces)
            used = produced = 0
            out.body_code = body_take(body, self.buffer + at, self.given - at, &used, &produced)
            memcpy(out.body + out.body_size, self.buffer + at, produced)
            out.body_size += produced
            at += used
        out.used = at - out.pos
        if out.body_code == BODY_TRAILERS:
            self._read_trailers(out, at, data, size, in_pieces)

    cdef void _read_trailers(self, outcome_t *out, size_t at, const uint8_t *data, size_t size,
                             bint in_pieces) noexcept nogil:
        cdef int code = HEAD_MORE
        head_init(&self.head, HEAD_TRAILERS)
        while True:
            if at < self.given:
                code = head_scan(&self.head, self.buffer + at, self.given - at)
            if code != HEAD_MORE or self.given == size:
                break
            self._give(data, size, in_pieces)
        if code == HEAD_DONE:
            out.trailers_size = forward_trailers(out.trailers, &self.head, self.buffer + at,
                                                 False)
            self._look_at_head(out.trailers, out.trailers_size)
        elif code < 0:
            out.body_code = code

    # ---- looked at ----

    cdef void _compare(self) noexcept nogil:
        cdef outcome_t *one = &self.one
        cdef outcome_t *other = &self.other
        self.expect(one.code == other.code, b"the head, in pieces")
        if one.code != HEAD_DONE or other.code != HEAD_DONE:
            return
        self.expect(one.pos == other.pos, b"where the head ends, in pieces")
        self.expect(one.head_size == other.head_size
                    and memcmp(one.head, other.head, one.head_size) == 0,
                    b"what is sent on, in pieces")
        self.expect(one.body_kind == other.body_kind and one.remaining == other.remaining,
                    b"the framing, in pieces")
        self.expect(one.body_code == other.body_code, b"the body's end, in pieces")
        if one.body_code >= 0:
            self.expect(one.used == other.used and one.body_size == other.body_size
                        and memcmp(one.body, other.body, one.body_size) == 0,
                        b"the body, in pieces")
            self.expect(one.trailers_size == other.trailers_size
                        and memcmp(one.trailers, other.trailers, one.trailers_size) == 0,
                        b"the trailers, in pieces")

    cdef void _look_at_raw(self) noexcept nogil:
        """Nothing that somebody could read in two ways was taken."""
        cdef size_t i
        cdef size_t start = 0
        cdef int lengths = 0
        cdef int codings = 0
        cdef int hosts = 0
        cdef uint8_t byte
        for i in range(self.one.pos):
            byte = self.raw[i]
            self.expect(byte != 0 and byte != 0x7f, b"a control character was taken")
            self.expect(byte != c"\r" or self.raw[i + 1] == c"\n", b"a bare CR was taken")
            if byte != c"\n":
                continue
            self.expect(i > 0 and self.raw[i - 1] == c"\r", b"a bare LF was taken")
            self.expect(i + 1 == self.one.pos or (self.raw[i + 1] != c" "
                                                  and self.raw[i + 1] != c"\t"),
                        b"a folded line was taken")
            lengths += _begins(self.raw + start, i - start, b"content-length")
            codings += _begins(self.raw + start, i - start, b"transfer-encoding")
            hosts += _begins(self.raw + start, i - start, b"host")
            start = i + 1
        self.expect(lengths == 0 or codings == 0, b"two framings were taken")
        if self.kind == REQUEST:
            self.expect(hosts < 2, b"two hosts were taken")

    cdef void _look_at_head(self, const uint8_t *data, size_t size) noexcept nogil:
        """What is sent on: lines of visible text, each ended as it should be, framed once."""
        cdef size_t i
        cdef size_t start = 0
        cdef int lengths = 0
        cdef int codings = 0
        cdef uint8_t byte
        self.expect(size <= FORWARD_SIZE_MAX and size >= 4, b"the size of what is sent on")
        self.expect(memcmp(data + size - 4, b"\r\n\r\n", 4) == 0, b"the end of what is sent on")
        for i in range(size):
            byte = data[i]
            if byte == c"\n":
                self.expect(i > 0 and data[i - 1] == c"\r", b"a bare LF is sent on")
                self.expect(i + 1 == size or i == start + 1 or data[i + 1] != c" ",
                            b"a folded line is sent on")
                lengths += _begins(data + start, i - start, b"content-length")
                codings += _begins(data + start, i - start, b"transfer-encoding")
                start = i + 1
                self.expect(start == size or data[start] != c":", b"a field without a name")
            elif byte == c"\r":
                self.expect(data[i + 1] == c"\n", b"a bare CR is sent on")
                self.expect(i > start or i + 2 == size, b"an empty line is sent on")
            else:
                self.expect(byte == c"\t" or (byte >= 0x20 and byte != 0x7f),
                            b"a control character is sent on")
        self.expect(lengths + codings <= 1, b"what is sent on is framed twice")

    cdef void _look_at_path(self) noexcept nogil:
        """What is sent on has neither empty elements nor such that lead elsewhere."""
        cdef const uint8_t *path = self.one.head
        cdef size_t i
        self.expect(path[0] != c" ", b"a request without a method is sent on")
        while path[0] != c" ":
            path += 1
        path += 1
        if path[0] == c"*":
            return
        self.expect(path[0] == c"/", b"a path that does not begin at the root")
        for i in range(<size_t>self.one.path_size - 1):
            if path[i] == c"/":
                self.expect(path[i + 1] != c"/", b"an empty element is sent on")
                self.expect(path[i + 1] != c"." or i + 2 < self.one.path_size
                            and path[i + 2] != c"/", b"a dot is sent on")
                self.expect(i + 2 >= self.one.path_size or path[i + 1] != c"."
                            or path[i + 2] != c"." or i + 3 < self.one.path_size
                            and path[i + 3] != c"/", b"two dots are sent on")

    cdef void _send_on_again(self) noexcept nogil:
        """A gateway behind us reads what we read, and sends on the same bytes."""
        cdef outcome_t *one = &self.one
        cdef outcome_t *other = &self.other
        self._read(other, one.head, one.head_size, False)
        self.expect(other.code == HEAD_DONE, b"what is sent on is refused")
        if other.code != HEAD_DONE:
            return
        self.expect(other.pos == one.head_size, b"what is sent on has another end")
        self.expect(other.body_kind == one.body_kind and other.remaining == one.remaining,
                    b"what is sent on is framed differently")
        self.expect(other.path_size == one.path_size, b"what is sent on has another path")
        self.expect(other.head_size == one.head_size
                    and memcmp(other.head, one.head, one.head_size) == 0,
                    b"what is sent on differs when it is sent on again")

    cdef bint _are_plain_chunks(self) noexcept nogil:
        """Whether what came begins with whole chunks, if with the simplest of extensions."""
        cdef size_t i = self.one.pos
        cdef size_t line, left
        cdef uint8_t byte
        while True:
            line = i
            left = 0
            while i < self.size and (c"0" <= self.raw[i] <= c"9" or c"a" <= self.raw[i] <= c"f"):
                byte = self.raw[i]
                left = left * 16 + (byte - c"a" + 10 if byte >= c"a" else byte - 0x30)
                i += 1
            if i == line or i > line + 8:
                return False
            if i + 1 < self.size and self.raw[i] == c";" and self.raw[i + 1] == c"x":
                i += 1
                while i < self.size and self.raw[i] == c"x":
                    i += 1
            if not self._is_line_end(i) or i + 2 - line > CHUNK_LINE_MAX:
                return False
            i += 2
            if left == 0:
                return True
            i += left
            if not self._is_line_end(i):
                return False
            i += 2

    cdef bint _is_line_end(self, size_t at) noexcept nogil:
        return at + 2 <= self.size and self.raw[at] == c"\r" and self.raw[at + 1] == c"\n"

    cdef void _look_at_chunks(self) noexcept nogil:
        """Decode the chunks once more, without looking at what is wrong."""
        cdef const uint8_t *at = self.raw + self.one.pos
        cdef const uint8_t *end = at + self.one.used
        cdef size_t n = 0
        cdef size_t left
        cdef uint8_t digit
        while at < end:
            left = 0
            while at[0] != c"\r" and at[0] != c";":
                digit = at[0] | 0x20
                left = left * 16 + (digit - c"a" + 10 if digit >= c"a" else digit - 0x30)
                at += 1
            while at[0] != c"\n":
                at += 1
            at += 1
            self.expect(at + left <= end and n + left <= self.one.body_size
                        and memcmp(at, self.one.body + n, left) == 0, b"the chunks")
            if left == 0 or self.difference != NULL:
                break
            n += left
            at += left
            self.expect(at[0] == c"\r" and at[1] == c"\n", b"the end of a chunk")
            at += 2
        self.expect(at == end and n == self.one.body_size, b"where the chunks end")
