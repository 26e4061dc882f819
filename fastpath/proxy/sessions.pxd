"""Who talks to whom over UDP: sessions, found by client, ended by age.

Two lists, because anybody can invent clients: sessions whose backend has not answered make room
first, and wait less long, than those whose backend has.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastpath.loop cimport endpoint_t
from fastpath.memory.slab cimport slab_t
from fastpath.memory.wheel cimport timeout_t
from fastpath.proxy.balance cimport tries_t
from fastpath.proxy.datagram cimport parties_t
from fastpath.sys_linux cimport sockaddr_any_t


cdef enum:
    SESSIONS_MAX = 4096         # of one worker; as in limits.py
    DATAGRAM_SIZE = 65536       # more than any has (but for RFC 2675's)
    # RFC 4787, REQ-5 asks for two minutes at least; what was never answered is another matter.
    UNREPLIED_MS = 30000
    REPLIED_MS = 120000


cdef enum:                      # indexes of sessions_t.ages
    AGE_UNREPLIED
    AGE_REPLIED
    AGE_COUNT


cdef struct session_t:
    endpoint_t upstream         # connected to the backend; closed: nobody is chosen now
    session_t *chain            # next in the same bucket
    session_t *newer            # in the list of its age
    session_t *older
    uint64_t used_ms            # when a datagram came last, from either side
    uint64_t hash               # of the flow: finds the session
    uint64_t choice             # hash that picks the backend
    parties_t parties
    sockaddr_any_t backend      # who was chosen
    tries_t tries               # those that refused, and the one chosen
    uint16_t listener_slot
    uint16_t service_slot
    uint16_t backend_slot
    uint8_t age                 # AGE_*


cdef struct ages_t:
    session_t *newest
    session_t *oldest


cdef struct sessions_t:         # the protocol's state in a loop
    slab_t slab
    slab_t table_memory
    slab_t datagram_memory
    session_t **table           # by hash; NULL: no memory was set aside yet
    uint8_t *datagram           # DATAGRAM_SIZE; content is lost when a handler returns
    ages_t ages[AGE_COUNT]
    timeout_t sweep             # ends those that are silent for too long
    uint32_t n


# Set aside memory for SESSIONS_MAX. FP_OK, or FP_FULL and nothing is set aside.
cdef int sessions_init(sessions_t *self) noexcept nogil
cdef void sessions_free(sessions_t *self) noexcept nogil
# The session of these parties on that listener, or NULL.
cdef session_t *sessions_find(
    sessions_t *self, uint64_t hash, uint16_t listener_slot, const parties_t *parties
) noexcept nogil
# A new one, zeroed but for what is given here, unreplied; there must be fewer than SESSIONS_MAX.
cdef session_t *sessions_add(
    sessions_t *self,
    uint64_t hash,
    uint16_t listener_slot,
    const parties_t *parties,
    uint64_t now_ms,
) noexcept nogil
# Give one back; its socket must be closed.
cdef void sessions_remove(sessions_t *self, session_t *session) noexcept nogil
# A datagram came: the session is the newest, of those that are replied if `age` says so.
cdef void sessions_touch(
    sessions_t *self, session_t *session, uint8_t age, uint64_t now_ms
) noexcept nogil
# One that has been silent for too long, or NULL.
cdef session_t *sessions_expired(sessions_t *self, uint64_t now_ms) noexcept nogil
# Milliseconds until one may have been, those included that begin in the meantime.
cdef uint32_t sessions_patience(sessions_t *self, uint64_t now_ms) noexcept nogil
# The one to make room: the oldest unreplied one, else the oldest; NULL: there is none.
cdef session_t *sessions_oldest(sessions_t *self) noexcept nogil
