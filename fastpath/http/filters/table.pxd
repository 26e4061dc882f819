"""A route's filters as the workers read them; fastpath.filter_tables fills them in."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastpath.abi cimport prefixes_t, service_t, text_t
from fastpath.http.answers cimport answer_t
from fastpath.http.encoders cimport ENCODINGS

# Which ones a route has: bits of filters_t.kinds.
cdef enum:
    HAS_SOURCES = 1 << 0        # allow_sources, deny_sources or both
    HAS_ALLOW = 1 << 1
    HAS_IN_FLIGHT = 1 << 2
    HAS_BODY_LIMIT = 1 << 3
    HAS_RESPOND = 1 << 4
    HAS_REDIRECT = 1 << 5
    HAS_HOST = 1 << 6           # rewrite, of the host
    HAS_PATH = 1 << 7           # rewrite, of the path; strip_prefix, add_prefix
    HAS_REQUEST_HEADERS = 1 << 8
    HAS_RESPONSE_HEADERS = 1 << 9
    HAS_RATE = 1 << 10
    HAS_CORS = 1 << 11
    HAS_PAGES = 1 << 12
    HAS_AUTH = 1 << 13
    HAS_COMPRESS = 1 << 14
    HAS_FORWARD_AUTH = 1 << 15
    HAS_MIRROR = 1 << 16

cdef enum:
    NAME_SIZE_MAX = 63          # of a field that is set, added or removed

cdef struct rate_t:
    text_t header               # whose value counts, as in edits_t; size 0: the client's address
    uint64_t interval_ns        # from one request to the next, when they come evenly
    uint64_t ahead_ns           # how much before its time one may come

cdef struct redirect_t:
    answer_t answer             # without Location
    text_t host                 # size 0: the request's
    text_t path                 # before what is kept of the request's; without a slash at its end
    uint16_t port               # 0: the listener's
    uint8_t is_https
    uint8_t keeps_path          # the request's path, or …
    uint8_t by_prefix           # … what is in it after the route's prefix

cdef struct edits_t:            # of fields of a head
    text_t lines                # to write
    const text_t *dropped       # n_dropped names in lower case, with dashes for underscores
    uint64_t sizes              # bit n: one of them has n bytes
    uint32_t n_dropped

cdef struct auth_t:             # basic_auth
    text_t challenge            # the line that says what is asked for
    uint64_t users[2]           # names the set of users: another set has another name

cdef struct forward_auth_t:
    const service_t *service    # in the same snapshot; NULL: not there (500)
    text_t path                 # with its query
    text_t names                # of the fields that the answer adds, as question_t has them
    edits_t copied              # the same, as what is hidden of the client's

cdef struct mirror_t:
    const service_t *service    # in the same snapshot; NULL: not there
    uint64_t threshold          # of 2^32 draws those below it are copied

cdef struct origin_t:           # from where pages may ask
    text_t head                 # all of it, or what is before the `*`
    text_t tail                 # what is behind the `*`; size 0: there is none

cdef struct cors_t:
    const origin_t *origins
    uint32_t n_origins
    uint8_t is_open             # every origin, and
    uint8_t says_star           # … all are told the same
    uint8_t echoes_method       # for a preflight: what was asked for is allowed
    uint8_t echoes_headers
    text_t credentials          # the lines for an origin that may ask: of every response,
    text_t exposed              # … of all but preflights
    text_t allowed              # … of preflights
    edits_t dropped             # what backends say of it
    answer_t answer             # to preflights

cdef struct target_filters_t:   # of one of a route's targets
    edits_t request_headers
    edits_t response_headers

cdef struct filters_t:
    uint32_t kinds              # HAS_*
    prefixes_t allowed
    prefixes_t denied
    uint32_t in_flight_max
    uint64_t body_size_max
    rate_t rate
    auth_t auth
    answer_t respond
    redirect_t redirect
    text_t new_host
    text_t new_path             # rewrite; of a prefix without a slash at its end
    text_t stripped             # these, too
    text_t added
    edits_t request_headers
    edits_t response_headers
    cors_t cors
    uint8_t encodings[<int>ENCODINGS]   # n_encodings, of compress: the first one is liked best
    uint8_t n_encodings
    forward_auth_t forward_auth
    mirror_t mirror
    const answer_t *pages       # n_pages, of different statuses
    uint32_t n_pages
    const target_filters_t *of_targets      # by their order in the route; NULL: there are none
    uint8_t rewrites_path
    uint8_t rewrites_prefix     # `new_path` stands for the route's prefix
