"""One connection of a TCP service, and what is noted about it."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastpath.abi cimport TIMES_COUNT
from fastpath.loop cimport endpoint_t, loop_t
from fastpath.proxy.admission cimport admitted_t
from fastpath.proxy.balance cimport tries_t
from fastpath.proxy.relay cimport pair_t
from fastpath.sys_linux cimport sockaddr_any_t


cdef enum stream_state_t:
    STREAM_PREFACE              # waiting for a PROXY header
    STREAM_CONNECTING
    STREAM_RELAYING             # the pair is started


cdef struct stream_t:
    endpoint_t client           # in epoll for a PROXY header, but not while connecting
    endpoint_t backend
    pair_t pair                 # its timeout also limits the header and connecting
    stream_t *next              # in streams_t.first
    stream_t *previous
    uint64_t hash               # of the flow, or of its client
    uint64_t service_born       # tells the service from others in its slot
    uint64_t accepted_us
    uint64_t connecting_us      # when the try that is under way, or that worked, began
    uint64_t connected_us       # 0: it never was
    sockaddr_any_t client_address   # who a PROXY header says it is, if one came
    sockaddr_any_t local_address    # where it connected to, likewise
    uint32_t connect_timeout_ms
    uint16_t listener_slot
    uint16_t service_slot
    admitted_t admitted         # by what it counts, until its end
    uint8_t state               # STREAM_*
    uint8_t proxy_header        # version that the backend gets; 0: none
    uint8_t logs                # a record is kept at the end
    uint8_t asks_local          # `local_address` is the listener's: not yet the one that was used
    tries_t tries


# Count a stream that has reached a backend.
cdef void stream_connected(loop_t *loop, stream_t *stream) noexcept nogil
# Count how it ended: pair.end.
cdef void stream_ended(loop_t *loop, const stream_t *stream) noexcept nogil
# Count one that was turned away: REJECT_*.
cdef void stream_rejected(loop_t *loop, const stream_t *stream, int reason) noexcept nogil
# Which bucket of a histogram a value belongs to: the first whose bound, `first` * 4^i, holds it.
cdef uint32_t times_bucket(uint64_t value, uint64_t first) noexcept nogil
