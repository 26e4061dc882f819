"""A line of a gateway's access log, as a worker keeps it until Python reads it (loop_t.requests).

What clients say is copied as far as there is room; what it is worth for a line is Python's to see.
"""

from libc.stdint cimport uint8_t, uint16_t, uint64_t

from fastpath.http.http1 cimport METHOD_SIZE_MAX
from fastpath.http.request cimport REQUEST_ID_MAX
from fastpath.sys_linux cimport sockaddr_any_t

cdef enum:
    REQUESTS_SIZE = 4096        # records of one worker that Python has not read yet
    SAID_MAX = 256              # bytes that are kept of one text

# How a request ended that no refusal_t ended; names in fastpath.requests.
cdef enum request_end_t:
    ENDED_DONE                  # the response was passed on completely
    ENDED_CLIENT                # the client broke off, or sent what is no body
    ENDED_BACKEND               # the backend broke off after the response had begun
    ENDED_TIMEOUT               # one of the times was over after the response had begun
    ENDED_TUNNEL                # after 101 bytes went both ways, until one side ended
    ENDED_CUT                   # its VIP has moved, or its backend was to get no more
    ENDED_STOPPED               # the engine stops
    ENDED_TROUBLE               # no memory was left to compress the rest of the response

cdef struct said_t:
    uint16_t size               # of what was said; what is above SAID_MAX was not kept
    uint8_t text[SAID_MAX]

cdef struct request_record_t:
    sockaddr_any_t client       # who asks
    uint64_t begun_us           # CLOCK_MONOTONIC: the first byte of the head
    uint64_t complete_us        # the head's last byte; 0: it never came
    uint64_t connecting_us      # the last try to connect
    uint64_t attached_us        # a socket to the backend was there
    uint64_t ended_us
    uint64_t queue_us           # how long it waited for a place
    uint64_t connect_us         # 0: the socket was there already
    uint64_t response_us        # from `attached_us` to the final head, if `has_response`
    uint64_t bytes_in           # body
    uint64_t bytes_out          # body; while the exchange is under way with heads
    uint64_t heads_in           # bytes of heads that are among those that moved
    uint64_t heads_out
    uint16_t gateway_slot
    uint16_t route_slot
    uint16_t backend_slot
    uint16_t status             # 0: the client was sent none
    uint8_t how                 # request_end_t, or refusal_t
    bint is_refused
    bint is_old                 # HTTP/1.0
    bint has_route
    bint has_backend
    bint has_response
    uint8_t retries
    uint8_t method_size
    uint8_t id_size             # 0: there is none
    uint8_t method[METHOD_SIZE_MAX]
    uint8_t id[REQUEST_ID_MAX]
    said_t host                 # as the last, so that a new record need not be cleared further; …
    said_t path                 # … each of these has its size set to begin with
    said_t referer              # without its query
    said_t agent
