"""Methods, headers and query parameters, compared where they lie in the request's head."""

from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memcmp

from fastpath.abi cimport predicate_t, text_t
from fastpath.http.http1 cimport (
    FIELD_CONNECTION, FIELD_HOP, FIELD_MANAGED, FIELD_TE, FIELD_TRANSFER_ENCODING,
    FIELD_UNDERSCORE, METHOD_OTHER, field_t,
)
from fastpath.http.patterns cimport PATTERN_FAILED, pattern_ends, pattern_go_on

cdef enum:
    NO_DIGIT = 255
    PIECE_SIZE = 64

cdef struct compare_t:          # a value that comes in pieces, against what it must be
    const predicate_t *wanted
    size_t at                   # bytes that are as wanted, when there is no pattern
    uint16_t state              # the pattern's
    bint failed


cdef bint conditions_match(const conditions_t *self, const asked_t *asked) noexcept nogil:
    cdef const predicate_t *query = self.predicates + self.n_headers
    cdef uint8_t i
    if (self.method_bits or self.n_methods) and not method_matches(self, asked):
        return False
    for i in range(self.n_headers):
        if not header_matches(&self.predicates[i], asked):
            return False
    for i in range(self.n_query):
        if not parameter_matches(&query[i], asked.data + asked.query.at, asked.query.size):
            return False
    return True


cdef bint method_matches(const conditions_t *self, const asked_t *asked) noexcept nogil:
    cdef const head_t *head = asked.head
    cdef const text_t *method
    cdef uint8_t i
    if head.method != METHOD_OTHER:
        return self.method_bits >> head.method & 1
    for i in range(self.n_methods):
        method = &self.methods[i]
        if (method.size == head.method_name.size
                and memcmp(method.data, asked.data + head.method_name.at, method.size) == 0):
            return True
    return False


# ---- a value that comes in pieces ----

cdef void compare_init(compare_t *self, const predicate_t *wanted) noexcept nogil:
    self.wanted = wanted
    self.at = 0
    self.state = wanted.pattern.first if wanted.pattern != NULL else 0
    self.failed = False


cdef void compare_piece(compare_t *self, const uint8_t *text, size_t size) noexcept nogil:
    cdef const predicate_t *wanted = self.wanted
    if wanted.pattern != NULL:
        self.state = pattern_go_on(wanted.pattern, self.state, text, size)
        self.failed = self.state == PATTERN_FAILED
    elif size > wanted.value.size - self.at:
        self.failed = True
    else:
        self.failed = memcmp(text, wanted.value.data + self.at, size) != 0
        self.at += size


cdef bint compare_end(const compare_t *self) noexcept nogil:
    if self.failed:
        return False
    if self.wanted.pattern != NULL:
        return pattern_ends(self.wanted.pattern, self.state)
    return self.at == self.wanted.value.size


# ---- headers ----

cdef inline bint is_there(const field_t *field) noexcept nogil:
    """Whether the field is one that a backend may get."""
    return field.kind not in (FIELD_CONNECTION, FIELD_HOP, FIELD_MANAGED, FIELD_TE,
                              FIELD_TRANSFER_ENCODING, FIELD_UNDERSCORE)


cdef bint has_name(const uint8_t *text, size_t size, const text_t *name) noexcept nogil:
    """Compare without case; `name` is in lower case."""
    cdef size_t i
    cdef uint8_t byte
    if size != name.size:
        return False
    for i in range(size):
        byte = text[i] | 0x20 if c"A" <= text[i] <= c"Z" else text[i]
        if byte != name.data[i]:
            return False
    return True


cdef bint header_matches(const predicate_t *wanted, const asked_t *asked) noexcept nogil:
    cdef const head_t *head = asked.head
    cdef const field_t *field
    cdef compare_t compare
    cdef bint found = False
    cdef uint16_t i
    compare_init(&compare, wanted)
    for i in range(head.fields_count):
        field = &head.fields[i]
        if not has_name(asked.data + field.name.at, field.name.size, &wanted.name):
            continue
        if not is_there(field):
            return False
        if found:
            compare_piece(&compare, <const uint8_t *>b", ", 2)
        found = True
        if not compare.failed:
            compare_piece(&compare, asked.data + field.value.at, field.value.size)
        if compare.failed:
            return False
    return found and compare_end(&compare)


# ---- the query ----

cdef inline uint8_t digit_of(uint8_t byte) noexcept nogil:
    if c"0" <= byte <= c"9":
        return byte - c"0"
    byte |= 0x20
    return byte - c"a" + 10 if c"a" <= byte <= c"f" else NO_DIGIT


cdef inline uint8_t next_byte(const uint8_t *text, size_t *at, size_t end) noexcept nogil:
    """The byte that stands at `at`, decoded; `at` moves behind it."""
    cdef size_t i = at[0]
    cdef uint8_t high, low
    at[0] = i + 1
    if text[i] == c"+":
        return c" "
    if text[i] == c"%" and end - i >= 3:
        high = digit_of(text[i + 1])
        low = digit_of(text[i + 2])
        if high != NO_DIGIT and low != NO_DIGIT:
            at[0] = i + 3
            return high << 4 | low
    return text[i]


cdef bint parameter_matches(const predicate_t *wanted, const uint8_t *query,
                            size_t size) noexcept nogil:
    """Compare the first parameter of the name."""
    cdef size_t at = 1                      # behind the `?`
    cdef size_t end, mark
    while at < size:
        end = at
        while end < size and query[end] != c"&":
            end += 1
        mark = at
        while mark < end and query[mark] != c"=":
            mark += 1
        if end > at and is_parameter(query + at, mark - at, &wanted.name):
            mark += mark < end
            return parameter_is(wanted, query + mark, end - mark)
        at = end + 1
    return False


cdef bint is_parameter(const uint8_t *text, size_t size, const text_t *name) noexcept nogil:
    cdef size_t at = 0
    cdef size_t i = 0
    while at < size:
        if i == name.size or next_byte(text, &at, size) != name.data[i]:
            return False
        i += 1
    return i == name.size


cdef bint parameter_is(const predicate_t *wanted, const uint8_t *text, size_t size) noexcept nogil:
    cdef uint8_t piece[PIECE_SIZE]
    cdef compare_t compare
    cdef size_t at = 0
    cdef size_t n = 0
    compare_init(&compare, wanted)
    while at < size and not compare.failed:
        piece[n] = next_byte(text, &at, size)
        n += 1
        if n == PIECE_SIZE or at == size:
            compare_piece(&compare, piece, n)
            n = 0
    return compare_end(&compare)
