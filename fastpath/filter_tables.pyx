"""Python's filters (fastpath.filters) -> filters_t, as far as possible rendered beforehand."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from fastpath.abi cimport prefixes_t, range_t, text_t
from fastpath.http.answers cimport answer_t
from fastpath.http.filters.table cimport (
    HAS_ALLOW, HAS_AUTH, HAS_BODY_LIMIT, HAS_COMPRESS, HAS_CORS, HAS_FORWARD_AUTH, HAS_HOST,
    HAS_IN_FLIGHT, HAS_MIRROR, HAS_PAGES, HAS_PATH, HAS_RATE, HAS_REDIRECT, HAS_REQUEST_HEADERS,
    HAS_RESPOND, HAS_RESPONSE_HEADERS, HAS_SOURCES, cors_t, edits_t, forward_auth_t, origin_t,
    redirect_t, target_filters_t,
)
from fastpath.table_parts cimport array_new, ranges_put

from http.client import responses

from fastpath.filters import CORS_FIELDS, ENCODINGS, HeaderEdits, page_for, plain_name
from fastpath.http.answers import REFUSAL_TABLE, render
from fastpath.http.encoders import available
from fastpath.prefixes import merged

_PORTS = {"": 0, "http": 80, "https": 443}
_BODILESS = (204, 304)


cdef class Array:
    """Owns an array."""

    cdef void *memory

    def __dealloc__(self):
        free(self.memory)


cdef class FilterTable:
    """Owns one filters_t and all that it points to."""

    def __cinit__(self, filters, tuple targets):
        """Fill it in; `targets` are those of the route that get requests."""
        self.kept = []
        self.c = <filters_t *>calloc(1, sizeof(filters_t))
        if self.c == NULL:
            raise MemoryError
        _put_admission(self, filters)
        if filters.respond is not None:
            self.c.kinds |= HAS_RESPOND
            _put_respond(self, &self.c.respond, filters.respond)
        if filters.redirect is not None:
            self.c.kinds |= HAS_REDIRECT
            _put_redirect(self, &self.c.redirect, filters.redirect)
        _put_rewriting(self, filters)
        if _put_edits(self, &self.c.request_headers, filters.request_headers):
            self.c.kinds |= HAS_REQUEST_HEADERS
        if _put_edits(self, &self.c.response_headers, filters.response_headers):
            self.c.kinds |= HAS_RESPONSE_HEADERS
        if filters.cors is not None:
            self.c.kinds |= HAS_CORS
            _put_cors(self, &self.c.cors, filters.cors)
        for name in filters.compress:
            if name in available():
                self.c.kinds |= HAS_COMPRESS
                self.c.encodings[self.c.n_encodings] = <uint8_t>(1 + ENCODINGS.index(name))
                self.c.n_encodings += 1
        if filters.forward_auth is not None:
            self.c.kinds |= HAS_FORWARD_AUTH
            _put_forward_auth(self, &self.c.forward_auth, filters.forward_auth)
        if filters.mirror is not None:
            self.c.kinds |= HAS_MIRROR
            self.c.mirror.threshold = (filters.mirror.percent << 32) // 100
        if filters.pages:
            self.c.kinds |= HAS_PAGES
            _put_pages(self, filters.pages)
        if any([target.has_filters for target in targets]):
            _put_targets(self, targets)

    def __dealloc__(self):
        free(self.c)


cdef object _put_admission(FilterTable self, filters):
    if filters.allowed or filters.denied:
        self.c.kinds |= HAS_SOURCES
        _put_prefixes(self, &self.c.allowed, filters.allowed)
        _put_prefixes(self, &self.c.denied, filters.denied)
    if filters.allowed:
        self.c.kinds |= HAS_ALLOW
    if filters.in_flight:
        self.c.kinds |= HAS_IN_FLIGHT
        self.c.in_flight_max = filters.in_flight
    if filters.rate is not None:
        self.c.kinds |= HAS_RATE
        interval_ns = filters.rate.period_ms * 1_000_000 // filters.rate.requests
        self.c.rate.interval_ns = interval_ns
        self.c.rate.ahead_ns = interval_ns * (filters.rate.burst - 1)
        _put_text(self, &self.c.rate.header, plain_name(filters.rate.header).encode())
    if filters.auth is not None:
        self.c.kinds |= HAS_AUTH
        _put_text(self, &self.c.auth.challenge, filters.auth.challenge())
        memcpy(self.c.auth.users, <const char *>(<bytes>filters.auth.users.name), 16)
    if filters.body_size:
        self.c.kinds |= HAS_BODY_LIMIT
        self.c.body_size_max = filters.body_size


cdef object _put_text(FilterTable self, text_t *text, bytes data):
    self.kept.append(data)
    text.data = <const uint8_t *>data
    text.size = <uint32_t>len(data)


cdef object _put_prefixes(FilterTable self, prefixes_t *prefixes, tuple wanted):
    cdef Array array = Array()
    array.memory = array_new(len(wanted), sizeof(range_t))
    self.kept.append(array)
    ranges_put(prefixes, <range_t *>array.memory, merged(wanted))


cdef object _put_respond(FilterTable self, answer_t *answer, wanted):
    body = b"" if wanted.status in _BODILESS else wanted.body
    content_type = "" if wanted.status in _BODILESS else wanted.content_type
    head = render(wanted.status, responses.get(wanted.status, ""), content_type, body)
    _put_text(self, &answer.head, head)
    _put_text(self, &answer.body, body)
    answer.status = wanted.status


cdef object _put_redirect(FilterTable self, redirect_t *redirect, wanted):
    phrase = responses.get(wanted.status, "")
    body = f"{wanted.status} {phrase}\n".encode()
    head = render(wanted.status, phrase, "text/plain; charset=utf-8", body)
    _put_text(self, &redirect.answer.head, head)
    _put_text(self, &redirect.answer.body, body)
    redirect.answer.status = wanted.status
    redirect.is_https = wanted.scheme == "https"
    redirect.port = wanted.port or _PORTS[wanted.scheme]
    _put_text(self, &redirect.host, wanted.host.encode())
    redirect.keeps_path = wanted.path is None or wanted.by_prefix
    redirect.by_prefix = wanted.path is not None and wanted.by_prefix
    path = wanted.path or ""
    _put_text(self, &redirect.path, (path.rstrip("/") if wanted.by_prefix else path).encode())


cdef object _put_rewriting(FilterTable self, filters):
    """What becomes of the host and the path."""
    rewrite = filters.rewrite
    if rewrite is not None and rewrite.host:
        self.c.kinds |= HAS_HOST
        _put_text(self, &self.c.new_host, rewrite.host.encode())
    if rewrite is not None and rewrite.path is not None:
        self.c.rewrites_path = True
        self.c.rewrites_prefix = rewrite.by_prefix
        path = rewrite.path.rstrip("/") if rewrite.by_prefix else rewrite.path
        _put_text(self, &self.c.new_path, path.encode())
    _put_text(self, &self.c.stripped, filters.strip_prefix.rstrip("/").encode())
    _put_text(self, &self.c.added, filters.add_prefix.rstrip("/").encode())
    if self.c.rewrites_path or self.c.stripped.size or self.c.added.size:
        self.c.kinds |= HAS_PATH


cdef object _put_cors(FilterTable self, cors_t *cors, wanted):
    cdef Array array = Array()
    cdef origin_t *origins
    cors.is_open = "*" in wanted.origins
    cors.says_star = cors.is_open and not wanted.credentials
    cors.echoes_method = wanted.credentials and "*" in wanted.methods
    cors.echoes_headers = wanted.credentials and "*" in wanted.headers
    _put_text(self, &cors.credentials, wanted.credentials_lines())
    _put_text(self, &cors.exposed, wanted.exposed_lines())
    _put_text(self, &cors.allowed, wanted.allowed_lines())
    _put_edits(self, &cors.dropped, HeaderEdits(remove=CORS_FIELDS))
    _put_text(self, &cors.answer.head, render(204, "No Content", "", b""))
    cors.answer.status = 204
    array.memory = array_new(len(wanted.origins), sizeof(origin_t))
    self.kept.append(array)
    origins = <origin_t *>array.memory
    for i, origin in enumerate(wanted.origins):
        head, _, tail = origin.partition("*")
        _put_text(self, &origins[<Py_ssize_t>i].head, head.encode())
        _put_text(self, &origins[<Py_ssize_t>i].tail, tail.encode())
    cors.origins = origins
    cors.n_origins = <uint32_t>len(wanted.origins)


cdef object _put_forward_auth(FilterTable self, forward_auth_t *auth, wanted):
    """All but the service, which the snapshot has."""
    _put_text(self, &auth.path, wanted.path.encode())
    _put_text(self, &auth.names, wanted.names())
    _put_edits(self, &auth.copied, HeaderEdits(remove=wanted.copied))


cdef object _put_pages(FilterTable self, tuple pages):
    """An answer for each status that we answer with by ourselves and that has a page."""
    cdef Array array = Array()
    cdef answer_t *answer
    phrases = {status: phrase for _, status, phrase, _ in REFUSAL_TABLE}
    array.memory = array_new(len(phrases), sizeof(answer_t))
    self.kept.append(array)
    answer = <answer_t *>array.memory
    self.c.pages = answer
    for status, phrase in phrases.items():
        page = page_for(pages, status)
        if page is not None:
            head = render(status, phrase, page.content_type, page.body)
            _put_text(self, &answer.head, head)
            _put_text(self, &answer.body, page.body)
            answer.status = status
            answer += 1
            self.c.n_pages += 1


cdef object _put_targets(FilterTable self, tuple targets):
    cdef Array array = Array()
    cdef target_filters_t *found
    array.memory = array_new(len(targets), sizeof(target_filters_t))
    self.kept.append(array)
    found = <target_filters_t *>array.memory
    self.c.of_targets = found
    for target in targets:
        _put_edits(self, &found.request_headers, target.request_headers)
        _put_edits(self, &found.response_headers, target.response_headers)
        found += 1


cdef bint _put_edits(FilterTable self, edits_t *edits, wanted) except -1:
    """Whether anything is to be done."""
    cdef Array array = Array()
    cdef text_t *names
    dropped = wanted.dropped()
    array.memory = array_new(len(dropped), sizeof(text_t))
    self.kept.append(array)
    names = <text_t *>array.memory
    for i, name in enumerate(dropped):
        _put_text(self, &names[<Py_ssize_t>i], name.encode())
        edits.sizes |= <uint64_t>1 << <int>len(name)
    edits.dropped = names
    edits.n_dropped = <uint32_t>len(dropped)
    _put_text(self, &edits.lines, wanted.lines())
    return edits.n_dropped > 0 or edits.lines.size > 0
