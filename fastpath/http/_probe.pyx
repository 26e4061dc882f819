"""Python's way into the pure parts, for the tests; built with PIAGENT_PROBE=1 only."""

from libc.stdint cimport uint8_t, uint16_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from fastpath.abi cimport pattern_t, route_t
from fastpath.http cimport (
    answers, counters, encoders, forward, forwarded, framing, http1, path, patterns, predicates,
    request, route_tables, routes, totals,
)
from fastpath.http.filters cimport compress, credentials, rates
from fastpath.http.filters.table cimport filters_t
from fastpath.http.state cimport client_t
from fastpath.sys_linux cimport AF_INET, AF_INET6, htons, sockaddr_any_t

import ipaddress
import time
from types import SimpleNamespace

from fastpath.filters import ENCODINGS
from fastpath.http.answers import REFUSAL_NAMES
from fastpath.tables import Gateway, Route

BODIES = ("none", "length", "chunked", "until-close")
CLIENT_SIZE = sizeof(client_t)
_ROUTE = Route("r", "", "/", False, (), 0, 0)


class Refused(Exception):  # noqa: N818
    """The name of a refusal and the status it is answered with."""


def _refused(int code):
    return Refused(REFUSAL_NAMES[-code], answers.answer_of(<http1.refusal_t>(-code)).status)


cdef object _put_address(sockaddr_any_t *address, str text, int port):
    packed = ipaddress.ip_address(text).packed
    memset(address, 0, sizeof(sockaddr_any_t))
    if len(packed) == 4:
        address.v4.sin_family = AF_INET
        address.v4.sin_port = htons(<uint16_t>port)
        memcpy(&address.v4.sin_addr, <const uint8_t *>packed, 4)
    else:
        address.v6.sin6_family = AF_INET6
        address.v6.sin6_port = htons(<uint16_t>port)
        memcpy(&address.v6.sin6_addr, <const uint8_t *>packed, 16)


cdef class Scan:
    """A head scanner over a buffer that grows by `feed`."""

    cdef http1.head_t head
    cdef uint8_t *data
    cdef size_t size

    def __cinit__(self, kind="request"):
        kinds = {"request": http1.HEAD_REQUEST, "response": http1.HEAD_RESPONSE,
                 "trailers": http1.HEAD_TRAILERS}
        self.data = <uint8_t *>malloc(http1.HEAD_SIZE_MAX)
        http1.head_init(&self.head, kinds[kind])

    def __dealloc__(self):
        free(self.data)

    def feed(self, bytes more):
        """Whether the head is complete; Refused when it is malformed."""
        cdef size_t n = min(<size_t>len(more), http1.HEAD_SIZE_MAX - self.size)
        memcpy(self.data + self.size, <const uint8_t *>more, n)
        self.size += n
        code = http1.head_scan(&self.head, self.data, self.size)
        if code < 0:
            raise _refused(code)
        return code == http1.HEAD_DONE

    @property
    def pos(self):
        return self.head.pos

    @property
    def status(self):
        return self.head.status

    def fields(self):
        """[(name, value)] as they came."""
        return [(self._text(self.head.fields[i].name), self._text(self.head.fields[i].value))
                for i in range(self.head.fields_count)]

    def _text(self, span):
        return bytes(self.data[span["at"]:span["at"] + span["size"]])

    def request(self, peer="192.0.2.1"):
        """(host, path, query, body kind, length, forwarded head); Refused when it is malformed."""
        cdef request.request_t *req = <request.request_t *>calloc(1, sizeof(request.request_t))
        cdef uint8_t *out = <uint8_t *>malloc(forward.FORWARD_SIZE_MAX)
        cdef forwarded.peer_t who
        cdef sockaddr_any_t who_address, local
        try:
            code = request.request_read(req, &self.head, self.data, 0)
            if code < 0:
                raise _refused(code)
            _put_address(&who_address, peer, 54321)
            _put_address(&local, "2001:db8::80" if ":" in peer else "192.0.2.80", 80)
            forwarded.peer_init(&who, &who_address, &local)
            size = forward.forward_request(out, req, &self.head, self.data, &who,
                                           &who_address)
            return (
                bytes(req.host[:req.host_size]), bytes(req.path[:req.path_size]),
                self._text(req.query), BODIES[req.body.kind], req.body.remaining, bytes(out[:size]),
                bool(req.is_websocket),
            )
        finally:
            free(req)
            free(out)

    def response(self, is_head=False, as_chunks=False, ending="keep"):
        """(status, body kind, length, forwarded head); Refused when it is malformed."""
        cdef framing.body_t body
        cdef framing.options_t options
        cdef uint8_t *out = <uint8_t *>malloc(forward.FORWARD_SIZE_MAX)
        endings = {"keep": forward.ENDING_KEEP, "keep-1.0": forward.ENDING_KEEP_10,
                   "close": forward.ENDING_CLOSE}
        try:
            code = framing.response_framing(&self.head, self.data, is_head, &body)
            if code == 0:
                code = framing.connection_options(&self.head, self.data, &options)
            if code < 0:
                raise _refused(code)
            size = forward.forward_response(out, &self.head, self.data, NULL, &body, as_chunks,
                                            endings[ending])
            return self.head.status, BODIES[body.kind], body.remaining, bytes(out[:size])
        finally:
            free(out)

    def wanted(self, names):
        """Which of these encodings, by the route's liking, the request gets; None: none."""
        cdef filters_t filters
        filters.n_encodings = <uint8_t>len(names)
        for i, name in enumerate(names):
            filters.encodings[<int>i] = <uint8_t>(1 + ENCODINGS.index(name))
        best = compress.compress_wanted(&filters, &self.head, self.data)
        return ENCODINGS[best - 1] if best else None

    def trailers(self, is_coded=False):
        """The end of a chunked body as we send it on."""
        cdef uint8_t *out = <uint8_t *>malloc(forward.FORWARD_SIZE_MAX)
        try:
            size = forward.forward_trailers(out, &self.head, self.data, is_coded)
            return bytes(out[:size])
        finally:
            free(out)


cdef class Chunks:
    """A chunk decoder."""

    cdef framing.body_t body

    def __cinit__(self):
        memset(&self.body, 0, sizeof(self.body))
        self.body.kind = framing.BODY_CHUNKED

    def feed(self, bytes more):
        """(decoded, bytes used, whether the trailers come next); Refused when it is malformed."""
        cdef size_t size = len(more)
        cdef size_t used = 0
        cdef size_t produced = 0
        cdef uint8_t *data = <uint8_t *>malloc(size or 1)
        try:
            memcpy(data, <const uint8_t *>more, size)
            code = framing.body_take(&self.body, data, size, &used, &produced)
            if code < 0:
                raise _refused(code)
            return bytes(data[:produced]), used, code == framing.BODY_TRAILERS
        finally:
            free(data)


cdef class Rates:
    """A table of rate limits."""

    cdef rates.rates_t *c

    def __cinit__(self):
        self.c = <rates.rates_t *>calloc(1, sizeof(rates.rates_t))

    def __dealloc__(self):
        free(self.c)

    def take(self, key, now_ns, interval_ns, ahead_ns):
        """0, or nanoseconds to wait."""
        return rates.rates_take(self.c, key, now_ns, interval_ns, ahead_ns)


cdef class Known:
    """What is remembered of credentials; `at`: which bucket, by the digest."""

    cdef credentials.credentials_t *c

    def __cinit__(self):
        self.c = <credentials.credentials_t *>calloc(1, sizeof(credentials.credentials_t))

    def __dealloc__(self):
        free(self.c)

    def keep(self, at, right, now_ms):
        """Remember."""
        cdef uint64_t digest[2]
        digest[0], digest[1] = at, 1
        credentials.credentials_keep(self.c, digest, right, now_ms)

    def find(self, at, now_ms):
        """True, False, or None: nobody knows."""
        cdef uint64_t digest[2]
        digest[0], digest[1] = at, 1
        verdict = credentials.credentials_find(self.c, digest, now_ms)
        return {credentials.VERDICT_RIGHT: True, credentials.VERDICT_WRONG: False}.get(verdict)


def canonical_path(bytes raw, keeps_slashes=False, refuses_slash=False):
    """The canonical path, or None."""
    rules = path.PATH_KEEPS_SLASHES * keeps_slashes + path.PATH_REFUSES_SLASH * refuses_slash
    cdef uint8_t *out = <uint8_t *>malloc(3 * len(raw) + 4)
    try:
        size = path.path_canonical(raw, len(raw), out, 3 * len(raw) + 4, rules)
        return None if size < 0 else bytes(out[:size])
    finally:
        free(out)


def canonical_host(bytes raw):
    """(host, port), or None."""
    cdef uint8_t out[path.HOST_SIZE_MAX]
    cdef uint16_t port = 0
    size = path.host_canonical(raw, len(raw), out, &port)
    return None if size < 0 else (bytes(out[:size]), port)


cdef class Table:
    """A gateway's routes, as the workers read them."""

    cdef route_tables.RouteTables tables

    def __cinit__(self, gateway):
        self.tables = route_tables.RouteTables((gateway,))
        slots = {(gateway.name, route.name): i for i, route in enumerate(gateway.routes)}
        numbering = SimpleNamespace(gateways={gateway.name: 0}, routes=slots)
        self.tables.put_all((gateway,), numbering, NULL, {})

    def find(self, bytes text):
        """The index of the entry that a request takes, or None; Refused when it is malformed."""
        cdef Scan scan = Scan()
        cdef request.request_t *req
        cdef predicates.asked_t asked
        cdef const route_t *found
        if not scan.feed(text):
            raise ValueError("the request has no end")
        req = <request.request_t *>calloc(1, sizeof(request.request_t))
        try:
            code = request.request_read(req, &scan.head, scan.data, 0)
            if code < 0:
                raise _refused(code)
            request.request_asked(&asked, req, &scan.head, scan.data)
            found = routes.route_find(&self.tables.gateways[0], &asked)
            return None if found == NULL else found - self.tables.routes
        finally:
            free(req)

    def nanoseconds(self, list texts, int rounds):
        """What finding the routes of these requests takes, one after the other; by the request."""
        cdef Py_ssize_t i, n = len(texts)
        cdef request.request_t *read = <request.request_t *>calloc(n, sizeof(request.request_t))
        cdef predicates.asked_t *asked = <predicates.asked_t *>calloc(
            n, sizeof(predicates.asked_t))
        cdef list scans = [Scan() for _ in texts]
        cdef Scan scan
        cdef int _round
        cdef uintptr_t found = 0
        try:
            for i in range(n):
                scan = scans[i]
                scan.feed(texts[i])
                if request.request_read(&read[i], &scan.head, scan.data, 0) < 0:
                    raise ValueError(texts[i])
                request.request_asked(&asked[i], &read[i], &scan.head, scan.data)
            began = time.perf_counter_ns()
            with nogil:
                for _round in range(rounds):
                    for i in range(n):
                        found += <uintptr_t>routes.route_find(&self.tables.gateways[0], &asked[i])
            return (time.perf_counter_ns() - began) / (rounds * n), found
        finally:
            free(read)
            free(asked)


def count_requests(list requests):
    """What totals say of requests (route slot, status, microseconds), all of them GET."""
    cdef counters.http_counters_t *counted = <counters.http_counters_t *>calloc(
        1, sizeof(counters.http_counters_t))
    cdef totals.HttpTotals summed = totals.HttpTotals()
    try:
        for slot, status, us in requests:
            counters.count_request(counted, slot, http1.METHOD_GET, status, us)
        summed.add(counted)
        return summed.by_name({("g", f"r{slot}"): slot for slot, _, _ in requests})
    finally:
        free(counted)


cdef class Pattern:
    """A compiled regular expression."""

    cdef route_tables.RouteTables tables
    cdef pattern_t *pattern

    def __cinit__(self, bytes program):
        self.tables = route_tables.RouteTables((Gateway("g", False, (_ROUTE,)),))
        self.pattern = self.tables.put_pattern(program)

    def matches(self, bytes value):
        """Whether it is somewhere in the value."""
        return bool(patterns.pattern_matches(self.pattern, value, len(value)))


def answer(str name, bint is_head=False, bint close=True):
    """One of our own answers."""
    cdef uint8_t out[answers.ANSWER_HEAD_MAX * 2]
    cdef answers.reply_t reply
    reply.fields_size = 0
    size = answers.answer_write(out, answers.answer_of(REFUSAL_NAMES.index(name)), &reply, is_head,
                                forward.ENDING_CLOSE if close else forward.ENDING_KEEP)
    return bytes(out[:size])


cdef class Encoder:
    """One encoder."""

    cdef encoders.encoder_t c

    def __cinit__(self, name):
        if not encoders.encoder_begin(&self.c, <uint8_t>(1 + ENCODINGS.index(name))):
            raise MemoryError

    def __dealloc__(self):
        encoders.encoder_end(&self.c)

    def again(self):
        """Another stream, whatever became of this one."""
        return encoders.encoder_again(&self.c)

    def run(self, bytes data, wanted="go", room=1 << 16):
        """What comes out by then, given out in pieces of `room` bytes; None: it has failed."""
        cdef const uint8_t *at = data
        cdef size_t left = len(data)
        cdef size_t free_room
        cdef uint8_t *out = <uint8_t *>malloc(room)     # so that writing beyond it is seen
        operations = {"go": encoders.ENCODE_GO, "flush": encoders.ENCODE_FLUSH,
                      "end": encoders.ENCODE_END}
        parts = []
        code = encoders.ENCODE_FULL
        while code == encoders.ENCODE_FULL:
            free_room = room
            code = encoders.encoder_run(&self.c, operations[wanted], &at, &left, out, &free_room)
            parts.append(out[:room - free_room])
        free(out)
        assert code < 0 or left == 0
        return b"".join(parts) if code == encoders.ENCODE_DONE else None
