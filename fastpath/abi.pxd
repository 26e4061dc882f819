"""Limits, codes and the tables the workers read. Imports nothing of fastpath but kernel types.

A snapshot and all it points to is built off-line by fastpath.snapshot, published with one pointer
store, never changed, and freed when every worker has moved on. So a worker may keep a pointer into
it during one turn of its loop and no longer. What must outlive a turn is a *slot*: a small number
that a service, backend, listener, gateway or route keeps as long as it exists under its name. A
backend's and a listener's is not given to another before the last connection of it has ended.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fastpath.sys_linux cimport sockaddr_any_t

cdef extern from *:
    """
    #ifdef FP_DEBUG
    #include <stdio.h>
    #include <stdlib.h>
    #define fp_assert(condition) ((condition) ? (void)0 : (fprintf(stderr, \\
        "%s:%d: broken invariant: %s\\n", __FILE__, __LINE__, #condition), abort()))
    #else
    #define fp_assert(condition) ((void)0)
    #endif
    #define fp_static_assert(condition) _Static_assert((condition), #condition)
    """
    # An invariant; checked in debug builds (PIAGENT_DEBUG=1) only.
    void fp_assert(bint condition) noexcept nogil
    # One that the compiler checks, of sizes and places of fields; without `and` and `or`.
    void fp_static_assert(bint condition) noexcept nogil


cdef enum:
    MAX_WORKERS = 64
    # Slots: twice what one set of tables may have (numbering.py), so that all can be replaced.
    MAX_LISTENERS = 1024
    MAX_SERVICES = 2048
    MAX_BACKENDS = 8192         # in all services together
    MAX_GATEWAYS = 512
    MAX_ROUTES = 20480          # in all gateways together
    # Beyond the slots of tables, counters only: of the sockets that Engine.relay handed over.
    RELAYS_LISTENER = MAX_LISTENERS
    RELAYS_BACKEND = MAX_BACKENDS
    RELAYS_SERVICE = MAX_SERVICES
    RETRY_STATUS_MIN = 400      # of retries_t.statuses
    MAX_TRIES = 8               # distinct backends tried for one connection or request
    MAX_SOURCES = 16            # addresses of ours that one service connects from
    BUFFER_SIZE = 16384         # one pooled buffer
    CACHE_LINE = 64


# What functions of the engine return: >= 0 is good.
cdef enum:
    FP_OK = 0
    FP_DONE = 1                 # good, and there is nothing left to do
    FP_AGAIN = -1               # the kernel has nothing now; epoll will tell
    FP_FULL = -2                # a limit of ours: memory, descriptors
    FP_BAD = -3                 # the peer or the input is at fault
    FP_RESET = -4               # the connection broke
    FP_PORTS = -5               # no port of ours is left towards that backend


# Why a connection was turned away; names in tables.py.
cdef enum:
    REJECT_CAPACITY = 0         # `connections` or the descriptor limit is reached
    REJECT_DESCRIPTORS = 1      # the kernel had none left (EMFILE, ENFILE)
    REJECT_NO_BACKEND = 2       # no usable backend
    REJECT_CONNECT = 3          # every backend tried refused or timed out
    REJECT_SOURCE = 4           # `allowed_sources` does not have the client
    REJECT_SERVICE = 5          # the service's own limit of connections
    REJECT_CLIENT = 6           # the limit of connections from one client
    REJECT_PREFACE = 7          # no PROXY header where one is due, a malformed one, or too slow
    REJECT_PORTS = 8            # no local port left for a connection to the backends
    REJECT_COUNT = 9


# How a stream of a TCP service ended; names in tables.py.
cdef enum:
    END_CLIENT = 0              # the client ended first, in order
    END_BACKEND = 1             # the backend did
    END_CLIENT_RESET = 2
    END_BACKEND_RESET = 3
    END_IDLE = 4                # silent for too long
    END_CUT = 5                 # its VIP has moved
    END_DRAINED = 6             # its backend had weight 0 or was gone for too long
    END_EVICTED = 7             # the longest idle one made room
    END_STOPPED = 8             # the engine stops
    END_TROUBLE = 9             # the kernel refused us something
    END_COUNT = 10


# Why a datagram was dropped; names in tables.py.
cdef enum:
    DROP_NO_BACKEND = 0         # no usable backend, or every one tried refused
    DROP_DESCRIPTORS = 1        # none left for a socket to the backend, or no local port
    DROP_UNSENT = 2             # the kernel did not take it: queue full, too long, address gone
    DROP_TRUNCATED = 3          # longer than there is room for
    DROP_GROUP = 4              # sent by broadcast or multicast
    DROP_SOURCE = 5             # `allowed_sources` does not have the client
    DROP_SERVICE = 6            # the service has as many sessions as it may have
    DROP_CLIENT = 7             # the client has, and none of them in this worker
    DROP_COUNT = 8


# Why a UDP session made room for a newer one; names in tables.py.
cdef enum:
    EVICTED_BY_TABLE = 0        # a worker has no room for more
    EVICTED_BY_CLIENT = 1       # its client has as many as one may have
    EVICTED_COUNT = 2


# Indexes of loop_t.protocols; listener_t.protocol.
cdef enum:
    PROTOCOL_TCP = 0
    PROTOCOL_HTTP = 1
    PROTOCOL_UDP = 2
    PROTOCOL_COUNT = 3


# service_t.balance: which of the usable backends a connection or session gets.
cdef enum:
    BALANCE_MAGLEV = 0          # the flow's hash: the same on every node
    BALANCE_ROUND_ROBIN = 1     # smooth and weighted, by worker
    BALANCE_LEAST = 2           # the fewest open connections for its weight
    BALANCE_RANDOM_TWO = 3      # of two drawn by weight the one with fewer


# Bits of retries_t.on: what befell a try.
cdef enum:
    RETRY_CONNECT = 1           # no backend could be connected to
    RETRY_RESET = 2             # the connection ended, or what came was no response
    RETRY_TIMEOUT = 4           # no response in time


# cut_t.kind
cdef enum:
    CUT_LISTENER = 0            # every connection that the listener has accepted
    CUT_BACKEND = 1             # every connection to the backend


# Kinds of route_t.host_kind.
cdef enum:
    HOST_ANY = 0
    HOST_EXACT = 1
    HOST_WILDCARD = 2

# Kinds of route_t.hash_kind.
cdef enum:
    HASH_HEADER = 0
    HASH_COOKIE = 1


cdef struct text_t:             # bytes without a final NUL
    const uint8_t *data         # owned by the snapshot
    uint32_t size


cdef struct range_t:            # addresses from first to last; IPv4 as ::ffff:a.b.c.d
    uint64_t first_high
    uint64_t first_low
    uint64_t last_high
    uint64_t last_low


cdef struct prefixes_t:         # a set of addresses
    const range_t *ranges       # n, disjoint, ascending; owned by the snapshot
    uint32_t n


cdef struct backend_t:
    sockaddr_any_t address
    uint64_t born               # generation that gave it its slot: tells it from those before it
    uint64_t returned_ms        # when it became usable again (slow start); 0: it always was
    uint64_t token              # a keyed hash of its name, for sticky cookies; never 0
    uint32_t weight
    uint32_t address_size       # of the sockaddr_in or sockaddr_in6 in `address`
    uint16_t slot               # index of counters_t.backends and snapshot_t.backend_of_slot
    uint16_t service_slot
    uint8_t up
    uint8_t usable              # up, and weight above 0


cdef struct service_t:
    uint64_t born               # as in backend_t
    backend_t *backends         # n_backends, sorted by name; owned by the snapshot
    const uint16_t *maglev      # MAGLEV_SIZE indexes of `backends`; NULL when none is usable
    prefixes_t allowed          # sources that may connect; n == 0: every one
    prefixes_t trusted          # sources whose connections begin with a PROXY header
    const sockaddr_any_t *sources   # n_sources own addresses to connect from; owned likewise
    uint32_t connect_timeout_ms
    uint32_t idle_timeout_ms    # 0: none
    uint32_t affinity_timeout_ms    # 0: affinity is by hash alone, nothing is remembered
    uint32_t slow_start_ms      # a returned backend gets its whole share after so long; 0: at once
    uint32_t eject_ms           # the first ejection's length
    uint32_t weight             # of the usable backends together
    uint32_t connections_max    # open ones, of all workers; 0: no limit of its own
    uint32_t connections_per_source     # the same of one client address; 0: no limit
    uint32_t accept_rate        # connections a second; 0: no limit
    uint16_t eject_failures     # in a row, for a backend to be passed over; 0: never
    uint16_t n_backends
    uint16_t n_usable
    uint16_t slot
    uint8_t n_sources
    uint8_t balance             # BALANCE_*
    uint8_t affinity            # what one client address sends goes to one backend
    uint8_t proxy_header        # version of the PROXY protocol that backends get; 0: none
    uint8_t logs                # a record of each connection at its end


cdef struct retries_t:
    uint64_t statuses[4]        # a bit for each status from RETRY_STATUS_MIN on that is tried again
    uint32_t backoff_ms         # before the second try; doubles with each
    uint8_t attempts            # after the first try; 0: none
    uint8_t on                  # RETRY_*


cdef struct target_t:           # where a share of a route's requests goes
    service_t *service          # in the same snapshot; NULL: not there (500)
    uint32_t last               # of the turns, which run from 0 to 2^32 - 1, that it gets


cdef struct pattern_t:          # a regular expression, compiled (http/patterns.pxd)
    const uint8_t *classes      # of each byte
    const uint8_t *accepts      # of each state: whether a value that ends there matches
    const uint16_t *table       # n_states rows of n_classes next states; owned by the snapshot
    uint16_t n_states
    uint16_t n_classes
    uint16_t first


cdef struct predicate_t:        # what a header or query parameter must be
    text_t name                 # a header's in lower case
    text_t value                # compared as a whole, unless there is a pattern
    const pattern_t *pattern


cdef struct conditions_t:       # what a route asks for beside host and path
    const predicate_t *predicates   # of n_headers headers, then of n_query query parameters
    const text_t *methods       # n_methods, those that no bit stands for
    uint16_t method_bits        # 1 << method_t; without bits and `methods` every method will do
    uint8_t n_methods
    uint8_t n_headers
    uint8_t n_query


cdef struct route_t:
    text_t name
    text_t host                 # lower case; for a wildcard what follows the `*`: ".lan"
    text_t path                 # canonical
    target_t *targets           # n_targets that have a weight; owned by the snapshot
    retries_t retries
    text_t cookie               # its name, when clients stick to backends; size 0: they do not
    uint32_t cookie_ttl_s       # 0: as long as the browser is open
    text_t hash_name            # of what a request is hashed by; size 0: none, see client_t.hash
    const pattern_t *pattern    # of the path, in place of `path`; else NULL
    conditions_t conditions
    route_t *next               # of the same host and path in the order of precedence, or NULL
    const void *filters         # filters_t of fastpath.http.filters.table; NULL: none
    uint64_t born               # as in backend_t
    uint32_t request_timeout_ms     # 0: none
    uint32_t backend_timeout_ms     # 0: none
    uint16_t slot               # stable for (gateway, name)
    uint8_t n_targets           # 0: no backend at all (500)
    uint8_t host_kind
    uint8_t exact               # path as a whole; else prefix by elements
    uint8_t hash_kind


cdef struct gateway_t:
    text_t name
    route_t *routes             # n_routes, the first that matches wins; owned by the snapshot
    const void *index           # route_index_t of http/routes.pxd; owned likewise
    const void *options         # options_t of fastpath.http.options; NULL: the defaults
    uint32_t n_routes
    uint32_t header_timeout_ms
    uint32_t body_idle_timeout_ms
    uint32_t keepalive_timeout_ms
    uint32_t tunnel_idle_timeout_ms
    uint16_t slot
    uint8_t any_depth           # `*` stands for one label and more, not for exactly one
    uint8_t keeps_slashes       # `//` in a path stays
    uint8_t refuses_slash       # an encoded one, or backslash, is answered with 400


cdef struct listener_t:
    sockaddr_any_t address
    const int *fds              # one a worker; owned by the snapshot, the descriptors by the worker
    service_t *service          # of a TCP or UDP listener, else NULL
    gateway_t *gateway          # of an HTTP listener, else NULL
    const text_t *hosts         # n_hosts that it serves, wildcards without their `*`
    uint16_t n_hosts            # 0: every host
    uint16_t slot
    uint8_t protocol
    uint8_t wildcard            # on every address of its family


cdef struct cut_t:              # connections to be closed
    uint64_t generation         # that asked for it first; later ones repeat it for slow workers
    uint16_t slot               # the listener's or backend's, which may be gone
    uint8_t kind                # CUT_*


cdef struct snapshot_t:
    uint64_t generation
    listener_t *listeners       # this and what follows is owned, up to `cuts`
    service_t *services
    backend_t *backends         # all services' in one array
    range_t *ranges             # the same
    sockaddr_any_t *sources     # the same
    int *fds
    cut_t *cuts
    gateway_t *gateways         # owned by fastpath.http.route_tables, as their routes are
    uint32_t n_listeners
    uint32_t n_services
    uint32_t n_gateways
    uint32_t n_cuts
    uint32_t clients_max        # client connections of all workers together
    uint32_t sockets_max        # of one worker: two for each client, and idle ones to backends
    uint32_t pipes_max          # of one worker, to splice streams through
    uint32_t sessions_max       # UDP sessions of one worker, which have a socket each
    uint8_t draining            # finish what is under way, keep nothing idle
    # By listener: 1: a connection of it ends with its next response, for it drains or is gone.
    uint8_t drains_of_slot[MAX_LISTENERS]
    listener_t *listener_of_slot[MAX_LISTENERS]     # NULL: not in this snapshot
    service_t *service_of_slot[MAX_SERVICES]
    backend_t *backend_of_slot[MAX_BACKENDS]
    gateway_t *gateway_of_slot[MAX_GATEWAYS]
    route_t *route_of_slot[MAX_ROUTES]      # one of its entries


# Counters: each worker has its own and is the only writer (fastpath.atomics.count); the engine
# adds them up with relaxed loads.

cdef struct backend_counters_t:     # one cache line
    uint64_t connections        # established in all
    uint64_t connect_failures
    uint64_t bytes_in           # from clients to the backend
    uint64_t bytes_out          # from the backend to clients
    int64_t active              # sockets that serve a client now, connecting ones included
    int64_t open                # sockets in all: active ones and pooled idle ones
    uint64_t ejections          # by this worker
    int64_t current_weight      # no counter: what smooth weighted round robin remembers


cdef struct listener_counters_t:
    uint64_t accepted           # connections or sessions in all, those turned away included
    int64_t open                # client connections that it accepted, open now; no UDP sessions


# Upper bounds of the histograms' buckets; the last bucket has what is above. In tables.py too.
cdef enum:
    TIMES_COUNT = 12


cdef struct times_t:            # of one backend's TCP connections: four cache lines
    uint64_t connect[TIMES_COUNT]   # how many took up to 0.25 ms * 4^i to be established
    uint64_t session[TIMES_COUNT]   # how many lasted up to 10 ms * 4^i
    uint64_t connect_us         # in all
    uint64_t session_ms
    uint64_t spare[6]


cdef struct service_counters_t:
    uint64_t rejected[REJECT_COUNT]
    uint64_t ended[END_COUNT]


cdef struct counters_t:
    # First, so that each begins with a cache line, as the memory of all does.
    backend_counters_t backends[MAX_BACKENDS + 1]       # and RELAYS_BACKEND
    times_t times[MAX_BACKENDS + 1]
    uint64_t turns
    int64_t clients             # client connections open now
    uint64_t rejected[REJECT_COUNT]
    int64_t sessions            # of UDP, open now
    uint64_t evicted[EVICTED_COUNT]
    uint64_t dropped[DROP_COUNT]
    uint64_t segments_received  # datagrams that came several in one message (UDP_GRO)
    uint64_t segments_sent      # those that left so (UDP_SEGMENT)
    listener_counters_t listeners[MAX_LISTENERS + 1]    # and RELAYS_LISTENER
    service_counters_t services[MAX_SERVICES + 1]       # and RELAYS_SERVICE


# What all workers share and write: atomics only.

cdef struct outlier_t:          # a backend seen by those who connect to it
    int64_t failures            # in a row
    uint64_t ejections          # without an answer in between
    uint64_t until_ms           # ejected until then


cdef struct log_record_t:       # a connection that is over
    sockaddr_any_t client
    sockaddr_any_t local        # where the client connected to
    uint64_t accepted_us        # CLOCK_MONOTONIC
    uint64_t ended_us
    uint64_t connect_us
    uint64_t bytes_in
    uint64_t bytes_out
    uint16_t service_slot
    uint16_t backend_slot
    uint8_t how                 # END_*, or REJECT_* when it was turned away
    uint8_t has_backend         # it was connected to one, which `backend_slot` says
    uint8_t rejected


cdef struct common_t:
    # What every connection changes has a cache line of its own, …
    int64_t clients             # client connections open now
    uint64_t spare_clients[7]
    uint64_t log_wanted         # whoever changes it from 1 to 0 writes to log_wake
    uint64_t spare_log[7]
    # … apart from what stays as it is, …
    int log_wake                # an eventfd
    uint32_t n_workers
    void *known_clients         # clients_t of fastpath.proxy.clients; borrowed from the engine
    void *rates                 # rates_t of fastpath.http.filters.rates; likewise
    void *credentials           # credentials_t of fastpath.http.filters.credentials; likewise
    int checks_wake             # an eventfd: workers have credentials for Python to check
    # Those of each worker, for others to read; set before the workers start.
    counters_t *counters[MAX_WORKERS]
    # … and from what one service's connections change.
    int64_t service_open[MAX_SERVICES]      # as `clients`, by service
    uint64_t accept_due_ns[MAX_SERVICES]    # accept_rate: when the next one is due by its rate
    outlier_t outliers[MAX_BACKENDS]
    int64_t in_flight[MAX_ROUTES]           # exchanges under way, of routes that limit them
