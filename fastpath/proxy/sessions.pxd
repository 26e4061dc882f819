"""Who talks to whom over UDP: sessions, found by client, ended by age.

Anybody can invent clients, so sessions are of three kinds, by what is known of them: the backend
has not answered yet; it has; and the client has then gone on (an *assured* one, as conntrack says).
When one has to make room it is the longest silent of the first kind, else of the second, and only
then of the third: a flood from ports that are used once leaves alone who talks.

Sessions of one client address count together, so that there can be a limit to them; an IPv6 client
is its /64, which one host has all of, but for link-local and unique local addresses: of those a
link's hosts share a /64 (RFC 4291 section 2.5.6, RFC 4193). Above the limit the client's own make
room, in the same order.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from fastpath.loop cimport endpoint_t
from fastpath.memory.slab cimport slab_t
from fastpath.memory.wheel cimport timeout_t
from fastpath.proxy.admission cimport admitted_t
from fastpath.proxy.batch cimport batch_t, datagram_t
from fastpath.proxy.datagram cimport parties_t
from fastpath.proxy.gather cimport gather_t
from fastpath.proxy.outbox cimport outbox_t
from fastpath.proxy.policies cimport tries_t
from fastpath.sys_linux cimport sockaddr_any_t


cdef enum:
    SESSIONS_MAX = 4096         # of one worker; as in limits.py
    # RFC 4787, REQ-5 asks for two minutes at least; what was never answered is another matter.
    UNREPLIED_MS = 30000
    REPLIED_MS = 120000
    EVERY_SERVICE = 0xffff      # client_t.service_slot


cdef enum:                      # indexes of ages_t arrays
    AGE_UNREPLIED
    AGE_REPLIED
    AGE_ASSURED
    AGE_COUNT


cdef enum:                      # the lists that a session is in
    LIST_ALL
    LIST_CLIENT                 # of those of its client
    LIST_COUNT


cdef enum:                      # session_t.way
    WAY_NONE
    WAY_IN                      # from the client
    WAY_OUT


cdef struct links_t:            # in the list of its age
    session_t *newer
    session_t *older


cdef struct ages_t:
    session_t *newest
    session_t *oldest


cdef struct client_t:           # whose sessions count together
    client_t *chain             # next in the same bucket
    uint64_t hash               # of `address` and `service_slot`
    uint8_t address[16]         # IPv4 as ::ffff:a.b.c.d, most IPv6 ones with 64 zeroes
    ages_t ages[AGE_COUNT]
    uint32_t n
    uint16_t service_slot       # of those services that have a limit of their own


cdef struct session_t:
    endpoint_t upstream         # connected to the backend; closed: nobody is chosen now
    session_t *chain            # next in the same bucket
    links_t links[LIST_COUNT]
    client_t *client            # owned by sessions_t
    admitted_t admitted         # what is given back at its end
    datagram_t *first           # messages to be sent in this turn; borrowed from the batch
    datagram_t *last
    session_t *next_waiting     # in sessions_t.first_waiting
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
    uint8_t way                 # WAY_* of the last message
    uint8_t answered            # the backend has sent something
    uint8_t requests_apart      # the kernel does not merge what goes to the backend,
    uint8_t answers_apart       # and what goes to the client


cdef struct sessions_t:         # the protocol's state in a loop
    uint64_t hash_key[2]
    slab_t slab
    slab_t clients_slab
    slab_t table_memory
    slab_t clients_memory
    session_t **table           # by hash; NULL: no memory was set aside yet
    client_t **clients          # by hash
    ages_t ages[AGE_COUNT]
    timeout_t sweep             # ends those that are silent for too long
    uint32_t n
    uint8_t apart               # this kernel merges nothing
    session_t *first_waiting    # those that have messages to be sent, in the order they got some
    session_t *last_waiting
    gather_t gather
    batch_t batch
    outbox_t outbox


# Set aside memory for SESSIONS_MAX. FP_OK, or FP_FULL and nothing is set aside.
cdef int sessions_init(sessions_t *self, const uint64_t *hash_key) noexcept nogil
cdef void sessions_free(sessions_t *self) noexcept nogil
# The session of these parties on that listener, or NULL.
cdef session_t *sessions_find(
    sessions_t *self, uint64_t hash, uint16_t listener_slot, const parties_t *parties
) noexcept nogil
# The sessions of a client: those of this service, or of EVERY_SERVICE. NULL: it has none.
cdef client_t *sessions_of(
    sessions_t *self, const sockaddr_any_t *client, uint16_t service_slot
) noexcept nogil
# A new one, zeroed but for what is given here, unreplied; there must be fewer than SESSIONS_MAX.
# `service_slot`: as for sessions_of.
cdef session_t *sessions_add(
    sessions_t *self,
    uint64_t hash,
    uint16_t listener_slot,
    const parties_t *parties,
    uint16_t service_slot,
    uint64_t now_ms,
) noexcept nogil
# Give one back; its socket must be closed, and nothing wait in it.
cdef void sessions_remove(sessions_t *self, session_t *session) noexcept nogil
# A datagram came from the client, or from the backend.
cdef void sessions_asked(sessions_t *self, session_t *session, uint64_t now_ms) noexcept nogil
cdef void sessions_answered(sessions_t *self, session_t *session, uint64_t now_ms) noexcept nogil
# One that has been silent for too long, or NULL.
cdef session_t *sessions_expired(sessions_t *self, uint64_t now_ms) noexcept nogil
# Milliseconds until one may have been, those included that begin in the meantime.
cdef uint32_t sessions_patience(sessions_t *self, uint64_t now_ms) noexcept nogil
# The one to make room, of those in `ages`; NULL: there is none.
cdef session_t *ages_oldest(ages_t *ages) noexcept nogil
# Let a message wait in the session.
cdef void sessions_wait(
    sessions_t *self, session_t *session, datagram_t *datagram
) noexcept nogil
# Take the next session that has messages, which are then the caller's; NULL: there is none.
cdef session_t *sessions_waiting(sessions_t *self, datagram_t **messages) noexcept nogil
