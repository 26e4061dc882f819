"""What the gateway keeps: clients, sockets to backends, and what one worker needs for both."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastpath.abi cimport MAX_BACKENDS, MAX_ROUTES, MAX_SERVICES, PROTOCOL_HTTP, route_t
from fastpath.http.answers cimport reply_t
from fastpath.http.checks cimport check_t, checks_t
from fastpath.http.counters cimport http_counters_t
from fastpath.http.flow cimport flow_t, stores_t
from fastpath.http.forwarded cimport peer_t
from fastpath.http.framing cimport body_t
from fastpath.http.http1 cimport head_t, span_t
from fastpath.http.records cimport request_record_t
from fastpath.http.request cimport request_t
from fastpath.http.request_id cimport request_ids_t
from fastpath.loop cimport endpoint_t, event_fn, loop_t
from fastpath.memory.slab cimport slab_t
from fastpath.memory.wheel cimport timeout_t
from fastpath.proxy.balance cimport tries_t
from fastpath.proxy.clients cimport known_client_t
from fastpath.proxy.relay cimport pair_t
from fastpath.sys_linux cimport sockaddr_any_t

cdef enum client_state_t:
    CLIENT_IDLE                 # between requests; holds no buffer
    CLIENT_HEAD                 # a request's head has begun
    CLIENT_CONNECTING           # the head is complete, a backend's socket is being connected
    CLIENT_WAITING              # for a place at its service (queue.pxd)
    CLIENT_CHECKING             # its credentials are with Python (filters/auth.pxd)
    CLIENT_BACKOFF              # a try has come to nothing, the next one is due at `deadline_ms`
    CLIENT_EXCHANGE             # request and response are under way
    CLIENT_ANSWER               # writes an answer of our own
    CLIENT_LINGER               # has been told everything; reads what still comes, to be heard
    CLIENT_TUNNEL               # after 101: fastpath.proxy.relay has both sockets

cdef enum response_state_t:
    RESPONSE_HEAD               # of an interim response or of the final one
    RESPONSE_INTERIM            # writes a 1xx head
    RESPONSE_BODY
    RESPONSE_UPGRADE            # writes the head of a 101
    RESPONSE_VERDICT            # the rest of an answer to a question of ours, that lets it go on

# What a connection does next. Functions that return it may return -refusal_t instead.
cdef enum step_t:
    STEP_WAIT = 0               # for an event or a timeout
    STEP_GO                     # go on at once, in the state that it is in now
    STEP_NEXT                   # the exchange is over, the connection goes on
    STEP_CLOSE                  # over, and so is the connection
    STEP_LINGER                 # the same, but the client may still be sending
    STEP_CUT                    # broken off: nobody may take what was sent for complete
    STEP_TUNNEL                 # a 101 was passed on

cdef struct upstream_t:         # a socket to a backend
    endpoint_t io
    client_t *client            # borrowed; NULL: idle in the pool
    upstream_t *next            # idle ones of the same backend, the last used first
    upstream_t *previous
    upstream_t *newer           # idle ones in the order they became so
    upstream_t *older
    uint64_t idle_since_ms
    uint64_t idle_since_turn    # of counters_t.turns
    sockaddr_any_t address      # the backend's
    uint16_t slot               # the backend's
    bint is_told                # its first bytes name a client: it serves no other

cdef enum:
    ORIGIN_SIZE_MAX = 254

cdef struct asker_t:            # the page that a request comes from, when it may ask (CORS)
    uint16_t size
    uint8_t origin[ORIGIN_SIZE_MAX]

cdef enum:
    COPIED_SIZE_MAX = 1024      # of question_t.names

# To a service that decides what becomes of a request (subrequest.pxd). While it is open
# (HEARS_QUESTION) the client's fields say what is asked, as if it had sent that, and these what it
# did send.
cdef struct question_t:
    uint8_t *head               # owned, from stores.forwards: the question's until it is asked, …
    body_t body                 # … then, as all that follows, the request's
    uint64_t service_born
    uint16_t head_size
    uint16_t granted_size       # of `head` with the fields that the answer adds
    uint16_t asked_slot         # the service that is asked
    uint16_t service_slot
    uint16_t wanted_slot
    uint16_t names_size
    uint8_t method
    bint has_body
    bint is_old
    bint is_sticky
    bint is_websocket
    uint8_t names[COPIED_SIZE_MAX]  # of the fields that the answer may add: each after its size

cdef enum:
    COPIES_MAX = 64             # copies of requests, of one worker (mirror.pxd)

# Whom what a backend answers is for.
cdef enum hears_t:
    HEARS_CLIENT = 0
    HEARS_QUESTION              # it is the answer to question_t
    HEARS_COPY                  # nobody: the client_t is a copy, without a socket of its own

cdef struct client_t:
    endpoint_t io
    timeout_t timeout           # fires at `deadline_ms` or before, then is armed anew
    client_t *next              # in http_t.clients
    client_t *previous
    client_t *ahead             # in its queue
    client_t *behind
    upstream_t *upstream        # owned while an exchange is under way
    head_t *head                # owned, from stores.heads: the head being read, from either side
    flow_t request              # client to backend; its buffer may hold the next request
    flow_t response
    asker_t *asker              # owned, from http_t.askers, until filters_done
    check_t *check              # owned, from http_t.checks, until filters_done; NULL: never waited
    question_t *question        # owned, from http_t.questions, until filters_done
    client_t *copy              # owned, from http_t.copies: of the request, until it goes
    pair_t *pair                # owned, from http_t.pairs; the tunnel
    request_record_t *record    # owned, from http_t.records; NULL: this request is not logged
    peer_t peer
    sockaddr_any_t address      # who asks: `remote`, or who a trusted proxy says
    sockaddr_any_t remote       # who has connected
    known_client_t *counted     # in known_clients, where a limit is; borrowed
    known_client_t *counted_in_all
    uint64_t flow               # hash of addresses and ports
    uint64_t origin             # hash of the client's address alone
    uint64_t hash               # of this request, or of our question
    uint64_t route_hash         # of what the route goes by; 0: it goes by nothing
    uint64_t deadline_ms        # of the state it is in; 0: none
    uint64_t total_deadline_ms  # of the exchange; 0: none
    uint64_t route_born         # with `route_slot`, tells the route from others that have the slot
    uint64_t begun_us           # when the request's head began
    uint64_t started_us         # when it was complete
    uint32_t header_timeout_ms  # of the gateway and the route, as they were then
    uint32_t body_idle_timeout_ms
    uint32_t keepalive_timeout_ms
    uint32_t tunnel_idle_timeout_ms
    uint32_t backend_timeout_ms
    uint64_t service_born       # of a copy: tells its service from others in the slot
    uint64_t token              # of the backend that a sticky cookie names; 0: none
    uint32_t heard              # bytes of an answer that nobody gets
    tries_t tries
    uint16_t listener_slot      # that accepted it; the listener may be gone
    uint16_t service_slot
    uint16_t route_slot
    uint16_t in_flight_slot     # the route that `is_in_flight` is about
    uint16_t place              # the service at which it has a place or waits for one
    uint16_t wanted_slot        # the backend that a sticky cookie names; MAX_BACKENDS: none
    uint16_t status             # that the client was sent
    uint8_t state               # client_state_t
    uint8_t response_state      # response_state_t
    uint8_t method              # method_t
    uint8_t hears               # hears_t
    uint8_t n_interim           # 1xx heads so far
    uint8_t n_retries           # of this request
    uint8_t encoding            # encoding_t: what the client takes, if it has_filters
    bint is_old                 # speaks HTTP/1.0
    bint wants_keep             # the connection may go on after this exchange
    bint has_body               # the request has one
    bint has_route              # `route_slot` counts
    bint is_told                # a proxy says who asks
    bint has_filters            # the route has some
    bint is_in_flight           # is counted in common_t.in_flight of `in_flight_slot`
    bint is_websocket
    bint is_pooled              # the upstream came out of the pool
    bint is_replaced            # the pooled one had died, this is another
    bint is_active              # counted in http_t.n_active, …
    bint is_waiting             # in the queue of `place`
    bint has_place              # counted in common_t.service_open[place]
    bint is_retrying            # … and in n_retrying
    bint keeps_request          # the whole request is there until the response is decided on
    bint is_sticky              # its route has a cookie that names backends
    bint sets_cookie            # the client gets a cookie that names its backend
    bint was_sent               # some of the request went to this upstream
    bint is_request_done        # the request went out completely
    bint is_deaf                # the backend takes no more of the request
    bint keeps_upstream         # the upstream may go back to the pool
    bint cut_by_reset           # the body's end is the connection's end: cut it visibly

cdef struct compressed_t:       # what compress says of a response, in fields that it adds
    span_t etag                 # a strong one, which becomes weak; size 0: none
    uint8_t encoding            # encoding_t
    bint varies                 # Vary: Accept-Encoding is not there yet

cdef struct queue_t:             # requests that wait for a place at one service
    client_t *first             # the one that has waited the longest
    client_t *last
    uint32_t n

cdef struct http_t:             # the protocol's state in a loop
    stores_t stores
    slab_t clients_memory
    slab_t upstreams_memory
    slab_t pairs
    slab_t askers
    slab_t questions
    slab_t copies
    slab_t records
    slab_t state_memory         # what holds this struct
    client_t *clients           # every one that is open
    upstream_t *oldest          # idle upstreams
    upstream_t *newest
    timeout_t sweep             # closes those idle for too long
    event_fn on_upstream        # what sockets to backends call
    client_t *first_copy        # of those that are on their own
    event_fn on_copy            # what the endpoints of copies call
    uint32_t n_idle_all         # upstreams in the pool
    timeout_t look              # whether there is a place, while anybody waits
    uint32_t n_active           # requests under way
    uint32_t n_retrying         # those of them that are not in their first try
    checks_t checks
    request_ids_t ids
    uint64_t n_requests         # mixed into the flow's hash: requests spread, not connections
    http_counters_t counters
    request_t request           # scratch: the request being read
    uint32_t turns[MAX_ROUTES]  # where in its turns a route with several targets is, by slot
    reply_t reply               # scratch: from a filter to exchange_answer
    compressed_t compressed     # scratch: from filters_response to filters_put
    queue_t queues[MAX_SERVICES]    # by slot
    upstream_t *idle[MAX_BACKENDS]      # by slot
    uint16_t n_idle[MAX_BACKENDS]


cdef inline uint64_t deadline_of(const loop_t *loop, uint32_t delay_ms) noexcept nogil:
    """That much from now; 0, which means never, for 0."""
    return loop.now_ms + delay_ms if delay_ms else 0


cdef inline void request_ended(http_t *http, client_t *client) noexcept nogil:
    """The request is under way no more; harmless when none was."""
    http.n_active -= client.is_active
    http.n_retrying -= client.is_retrying
    client.is_active = client.is_retrying = False


cdef inline const route_t *route_of(const loop_t *loop, const client_t *client) noexcept nogil:
    """The route that the request came through; NULL when it came through none, or that is gone."""
    cdef const route_t *route = loop.snapshot.route_of_slot[client.route_slot]
    if not client.has_route or route == NULL or route.born != client.route_born:
        return NULL
    return route


cdef inline bint client_drains(const loop_t *loop, const client_t *client) noexcept nogil:
    """Whether the connection ends with its next response, by the tables of now."""
    return loop.snapshot.drains_of_slot[client.listener_slot]


cdef inline http_t *http_of(loop_t *loop) noexcept nogil:
    return <http_t *>loop.states[PROTOCOL_HTTP]
