"""Python's way into the UDP sessions, for the tests; built with PIAGENT_PROBE=1 only."""

from libc.string cimport memset

from fastpath.proxy.datagram cimport parties_t
from fastpath.proxy.sessions cimport (
    AGE_REPLIED, REPLIED_MS as _REPLIED_MS, SESSIONS_MAX as _SESSIONS_MAX,
    UNREPLIED_MS as _UNREPLIED_MS, session_t, sessions_add, sessions_expired, sessions_find,
    sessions_free, sessions_init, sessions_oldest, sessions_patience, sessions_remove, sessions_t,
    sessions_touch,
)
from fastpath.sys_linux cimport AF_INET, htons, ntohs

SESSIONS_MAX = _SESSIONS_MAX
UNREPLIED_MS = _UNREPLIED_MS
REPLIED_MS = _REPLIED_MS


cdef class Sessions:
    """Sessions without sockets, that are told by their client's port."""

    cdef sessions_t sessions

    def __cinit__(self):
        if sessions_init(&self.sessions) != 0:
            raise MemoryError

    def __dealloc__(self):
        while self.sessions.n > 0:
            sessions_remove(&self.sessions, sessions_oldest(&self.sessions))
        sessions_free(&self.sessions)

    cdef session_t *_find(self, port, hash, listener):
        cdef parties_t parties = _parties(port)
        return sessions_find(&self.sessions, hash, listener, &parties)

    def has(self, port, hash, listener):
        return self._find(port, hash, listener) != NULL

    def add(self, port, hash, listener, now_ms):
        cdef parties_t parties = _parties(port)
        sessions_add(&self.sessions, hash, listener, &parties, now_ms)

    def touch(self, port, hash, listener, replied, now_ms):
        cdef session_t *session = self._find(port, hash, listener)
        sessions_touch(&self.sessions, session, AGE_REPLIED if replied else session.age, now_ms)

    def remove(self, port, hash, listener):
        sessions_remove(&self.sessions, self._find(port, hash, listener))

    def oldest(self):
        return _named(sessions_oldest(&self.sessions))

    def expired(self, now_ms):
        return _named(sessions_expired(&self.sessions, now_ms))

    def patience(self, now_ms):
        return sessions_patience(&self.sessions, now_ms)

    @property
    def n(self):
        return self.sessions.n


cdef parties_t _parties(port):
    cdef parties_t parties
    memset(&parties, 0, sizeof(parties))
    parties.client.v4.sin_family = AF_INET
    parties.client.v4.sin_port = htons(port)
    return parties


cdef object _named(const session_t *session):
    """(port, hash, listener), or None."""
    if session == NULL:
        return None
    return ntohs(session.parties.client.v4.sin_port), session.hash, session.listener_slot
