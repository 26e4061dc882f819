"""Python's way into UDP sessions and messages, for the tests; built with PIAGENT_PROBE=1 only."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from fastpath.proxy.batch cimport (
    HEAD_SIZE as _HEAD_SIZE, batch_clear, batch_drained, batch_free, batch_init, batch_is_full,
    batch_receive, batch_t,
)
from fastpath.proxy.datagram cimport parties_t
from fastpath.proxy.gather cimport (
    GATHER_LEAST as _GATHER_LEAST, GATHER_MOST as _GATHER_MOST, GATHER_US as _GATHER_US,
    gather_note, gather_t, gather_wait_us,
)
from fastpath.proxy.outbox cimport outbox_add, outbox_clear, outbox_send, outbox_t
from fastpath.proxy.sessions cimport (
    EVERY_SERVICE as _EVERY_SERVICE, REPLIED_MS as _REPLIED_MS, SESSIONS_MAX as _SESSIONS_MAX,
    UNREPLIED_MS as _UNREPLIED_MS, ages_oldest, client_t, session_t, sessions_add,
    sessions_answered, sessions_asked, sessions_expired, sessions_find, sessions_free,
    sessions_init, sessions_of, sessions_patience, sessions_remove, sessions_t,
)
from fastpath.sys_linux cimport AF_INET, AF_INET6, htons

import socket

SESSIONS_MAX = _SESSIONS_MAX
UNREPLIED_MS = _UNREPLIED_MS
REPLIED_MS = _REPLIED_MS
EVERY_SERVICE = _EVERY_SERVICE
HEAD_SIZE = _HEAD_SIZE
GATHER_US = _GATHER_US
GATHER_LEAST = _GATHER_LEAST
GATHER_MOST = _GATHER_MOST


cdef class Sessions:
    """Sessions without sockets, told by their key: (client's address, port), hash, listener."""

    cdef sessions_t sessions
    cdef dict keys              # of those that are there, by where they are

    def __cinit__(self):
        cdef uint64_t hash_key[2]
        hash_key[0] = 0
        hash_key[1] = 1
        self.keys = {}
        if sessions_init(&self.sessions, hash_key) != 0:
            raise MemoryError

    def __dealloc__(self):
        while self.sessions.n > 0:
            sessions_remove(&self.sessions, ages_oldest(self.sessions.ages))
        sessions_free(&self.sessions)

    cdef session_t *_find(self, client, hash, listener):
        cdef parties_t parties = _parties(client)
        return sessions_find(&self.sessions, hash, listener, &parties)

    cdef client_t *_client(self, client, service):
        cdef parties_t parties = _parties(client)
        return sessions_of(&self.sessions, &parties.client, service)

    def has(self, client, hash, listener):
        return self._find(client, hash, listener) != NULL

    def add(self, client, hash, listener, service, now_ms):
        cdef parties_t parties = _parties(client)
        cdef session_t *session = sessions_add(
            &self.sessions, hash, listener, &parties, service, now_ms
        )
        self.keys[<size_t>session] = (client, hash, listener)

    def asked(self, client, hash, listener, now_ms):
        sessions_asked(&self.sessions, self._find(client, hash, listener), now_ms)

    def answered(self, client, hash, listener, now_ms):
        sessions_answered(&self.sessions, self._find(client, hash, listener), now_ms)

    def remove(self, client, hash, listener):
        cdef session_t *session = self._find(client, hash, listener)
        del self.keys[<size_t>session]
        sessions_remove(&self.sessions, session)

    def oldest(self):
        return self.keys.get(<size_t>ages_oldest(self.sessions.ages))

    def oldest_of(self, client, service):
        cdef client_t *found = self._client(client, service)
        return self.keys[<size_t>ages_oldest(found.ages)] if found != NULL else None

    def count_of(self, client, service):
        cdef client_t *found = self._client(client, service)
        return found.n if found != NULL else 0

    def expired(self, now_ms):
        return self.keys.get(<size_t>sessions_expired(&self.sessions, now_ms))

    def patience(self, now_ms):
        return sessions_patience(&self.sessions, now_ms)

    @property
    def n(self):
        return self.sessions.n


cdef parties_t _parties(tuple client):
    cdef parties_t parties
    text, port = client
    cdef bytes packed = socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    memset(&parties, 0, sizeof(parties))
    parties.client.v4.sin_port = htons(<uint16_t>port)          # as in a sockaddr_in6
    if len(packed) == 4:
        parties.client.any.sa_family = AF_INET
        memcpy(&parties.client.v4.sin_addr, <const uint8_t *>packed, 4)
    else:
        parties.client.any.sa_family = AF_INET6
        memcpy(&parties.client.v6.sin6_addr, <const uint8_t *>packed, 16)
    return parties


cdef class Passage:
    """Takes what one UDP socket has, and sends it on through another."""

    cdef batch_t batch
    cdef outbox_t outbox

    def __cinit__(self):
        if batch_init(&self.batch) != 0:
            raise MemoryError

    def __dealloc__(self):
        batch_free(&self.batch)

    def forward(self, source, target, apart):
        """(messages received, messages sent, whether they were sent apart), up to a full batch."""
        cdef uint8_t refused = apart
        cdef uint32_t i
        batch_clear(&self.batch)
        outbox_clear(&self.outbox)
        while not batch_is_full(&self.batch):
            if batch_receive(&self.batch, source, False) != 0 or batch_drained(&self.batch):
                break
        for i in range(self.batch.n):
            outbox_add(
                &self.outbox, &self.batch.datagrams[i], &refused, &refused, NULL, False
            )
        if outbox_send(&self.outbox, target) != 0:
            raise OSError("not sent")
        return self.batch.n, self.outbox.n, bool(refused)


cdef class Gather:
    """The turns of a worker."""

    cdef gather_t gather

    def turn(self, following, now_us):
        """How long to wait after one with messages that follow others the same way, or do not."""
        for each in following:
            gather_note(&self.gather, each)
        return gather_wait_us(&self.gather, now_us)
