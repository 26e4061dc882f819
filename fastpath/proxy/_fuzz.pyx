"""Sessions and clients, driven at random beside models; built with PIAGENT_PROBE=1 only.

The models are arrays that are searched from end to end.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from fastpath.abi cimport FP_OK
from fastpath.memory._fuzz cimport Fuzz
from fastpath.proxy.clients cimport (
    clients_enter, clients_free, clients_init, clients_leave, clients_recall, clients_remember,
    clients_t, known_client_t,
)
from fastpath.proxy.datagram cimport parties_t
from fastpath.proxy.sessions cimport (
    AGE_ASSURED, AGE_REPLIED, AGE_UNREPLIED, EVERY_SERVICE, REPLIED_MS, UNREPLIED_MS, ages_oldest,
    client_t, session_t, sessions_add, sessions_answered, sessions_asked, sessions_expired,
    sessions_find, sessions_free, sessions_init, sessions_of, sessions_patience, sessions_remove,
    sessions_t,
)
from fastpath.sys_linux cimport AF_INET, AF_INET6, htons, sockaddr_any_t


cdef enum:
    MANY = 64                   # of what a model counts one by one
    NOBODY = -1


cdef struct spoken_t:           # the model's session
    session_t *session          # NULL: there is none
    uint64_t used_ms
    uint64_t order              # of what was heard; the last one is the highest
    int age


cdef class SessionsFuzz(Fuzz):
    """Against an array with who was heard when; its index stands for all of the session's key."""

    cdef sessions_t sessions
    cdef spoken_t model[MANY]
    cdef uint64_t now_ms
    cdef uint64_t n_heard
    cdef int n_keys
    cdef uint32_t n_hashes      # few: many sessions in one bucket
    cdef uint32_t n_bits        # of milliseconds between two steps at most

    def __cinit__(self, *, seed, n_keys, n_hashes, n_bits):
        cdef uint64_t hash_key[2]
        hash_key[0], hash_key[1] = seed, 1
        self.n_keys = n_keys
        self.n_hashes = n_hashes
        self.n_bits = n_bits
        self.now_ms = 1000000
        if n_keys > MANY or sessions_init(&self.sessions, hash_key) != FP_OK:
            raise MemoryError

    def __dealloc__(self):
        while self.sessions.n > 0:
            sessions_remove(&self.sessions, ages_oldest(self.sessions.ages))
        sessions_free(&self.sessions)

    cdef uint64_t _key(self, int i, parties_t *parties, uint16_t *listener) noexcept nogil:
        """Fill in who talks to whom; keys differ in one of three parts. Returns the hash."""
        memset(parties, 0, sizeof(parties_t))
        if i % 4 < 2:           # one address, two ports
            parties.client.v4.sin_family = AF_INET
            parties.client.v4.sin_port = htons(<uint16_t>(1 + i % 4))
        else:                   # two addresses of one /64
            parties.client.v6.sin6_family = AF_INET6
            parties.client.v6.sin6_addr.s6_addr[0] = 0x20
            parties.client.v6.sin6_addr.s6_addr[15] = <uint8_t>(i % 4)
        listener[0] = <uint16_t>(i // 4 % 2)
        # Neighbours in hash share a bucket, whatever a power of two there are of them.
        return 7 + (<uint64_t>(i // 8 % self.n_hashes) << 32) + (i // 8 // self.n_hashes)

    cdef bint _of_one(self, int i, int other) noexcept nogil:
        """Whether these count together: of one client, and of services that limit them alike."""
        return i // 2 % 4 == other // 2 % 4

    cdef uint16_t _service(self, int i) noexcept nogil:
        return <uint16_t>5 if i // 4 % 2 else <uint16_t>EVERY_SERVICE

    cdef session_t *_find(self, int i) noexcept nogil:
        cdef parties_t parties
        cdef uint16_t listener = 0
        cdef uint64_t hash = self._key(i, &parties, &listener)
        return sessions_find(&self.sessions, hash, listener, &parties)

    cdef void step(self) noexcept nogil:
        cdef uint32_t what = self.roll(32)
        cdef int i = self.roll(self.n_keys)
        self.now_ms += self.roll_bits(self.n_bits)
        self.expect(self._find(i) == self.model[i].session, b"who is found")
        if what < 24:
            self._hear(i, what < 8)
        elif what < 28:
            if self.model[i].session != NULL:
                self._remove(i)
        elif what < 31:
            self._expire()
        else:
            self._make_room()
        self._compare()
        self._compare_client(i)

    cdef void _hear(self, int i, bint replied) noexcept nogil:
        cdef spoken_t *spoken = &self.model[i]
        cdef parties_t parties
        cdef uint16_t listener = 0
        cdef uint64_t hash
        if spoken.session == NULL:
            hash = self._key(i, &parties, &listener)
            spoken.session = sessions_add(
                &self.sessions, hash, listener, &parties, self._service(i), self.now_ms
            )
            spoken.age = AGE_UNREPLIED
        elif replied:
            sessions_answered(&self.sessions, spoken.session, self.now_ms)
            spoken.age = max(spoken.age, <int>AGE_REPLIED)
        else:
            sessions_asked(&self.sessions, spoken.session, self.now_ms)
            if spoken.age != AGE_UNREPLIED:
                spoken.age = AGE_ASSURED
        self.n_heard += 1
        spoken.order = self.n_heard
        spoken.used_ms = self.now_ms

    cdef void _remove(self, int i) noexcept nogil:
        sessions_remove(&self.sessions, self.model[i].session)
        self.model[i].session = NULL

    cdef int _index(self, const session_t *session) noexcept nogil:
        """Which of the model's it is."""
        cdef int i
        for i in range(self.n_keys):
            if session != NULL and self.model[i].session == session:
                return i
        return NOBODY

    cdef uint64_t _due_ms(self, int i) noexcept nogil:
        return self.model[i].used_ms + (
            UNREPLIED_MS if self.model[i].age == AGE_UNREPLIED else REPLIED_MS
        )

    cdef void _expire(self) noexcept nogil:
        """End all that are silent for too long, and no other."""
        cdef int i
        while True:
            i = self._index(sessions_expired(&self.sessions, self.now_ms))
            if i == NOBODY:
                break
            self.expect(self._due_ms(i) <= self.now_ms, b"none ends before its time")
            self._remove(i)
        for i in range(self.n_keys):
            self.expect(
                self.model[i].session == NULL or self._due_ms(i) > self.now_ms,
                b"all end that are silent for too long",
            )

    cdef void _make_room(self) noexcept nogil:
        cdef int i = self._index(ages_oldest(self.sessions.ages))
        if i != NOBODY:
            self._remove(i)

    cdef void _compare(self) noexcept nogil:
        cdef uint64_t due_ms = self.now_ms + UNREPLIED_MS
        cdef int oldest = NOBODY
        cdef int i
        cdef uint32_t n = 0
        for i in range(self.n_keys):
            if self.model[i].session == NULL:
                continue
            n += 1
            due_ms = min(due_ms, self._due_ms(i))
            if oldest == NOBODY or self._goes_before(i, oldest):
                oldest = i
        self.expect(self.sessions.n == n, b"how many there are")
        self.expect(self._index(ages_oldest(self.sessions.ages)) == oldest, b"who makes room")
        self.expect(
            sessions_patience(&self.sessions, self.now_ms)
            == (due_ms - self.now_ms if due_ms > self.now_ms else 0),
            b"when the next one is due",
        )

    cdef void _compare_client(self, int key) noexcept nogil:
        """The same of those that count together with one."""
        cdef parties_t parties
        cdef uint16_t listener = 0
        cdef client_t *client
        cdef int oldest = NOBODY
        cdef int i
        cdef uint32_t n = 0
        for i in range(self.n_keys):
            if self.model[i].session != NULL and self._of_one(i, key):
                n += 1
                if oldest == NOBODY or self._goes_before(i, oldest):
                    oldest = i
        self._key(key, &parties, &listener)
        client = sessions_of(&self.sessions, &parties.client, self._service(key))
        self.expect((client.n if client != NULL else 0) == n, b"how many a client has")
        self.expect(
            client == NULL or self._index(ages_oldest(client.ages)) == oldest,
            b"who of a client's makes room",
        )

    cdef bint _goes_before(self, int i, int other) noexcept nogil:
        """Whether this one makes room first: less is known of it, or it is silent for longer."""
        if self.model[i].age != self.model[other].age:
            return self.model[i].age < self.model[other].age
        return self.model[i].order < self.model[other].order


cdef struct counted_t:          # the model's entry of a client with open connections
    known_client_t *known       # of each the same
    uint32_t n_open


cdef struct remembered_t:
    uint64_t backend
    uint64_t used_ms
    uint64_t order              # of what was remembered; 0: nothing is


cdef class ClientsFuzz(Fuzz):
    """Against two arrays: of counts, by what counts as one client, and of memories, by address."""

    cdef clients_t clients
    cdef counted_t counted[MANY]
    cdef remembered_t remembered[MANY]
    cdef uint64_t now_ms
    cdef uint64_t n_remembered
    cdef uint32_t capacity
    cdef uint32_t n_addresses

    def __cinit__(self, *, seed, capacity, n_addresses):
        cdef uint64_t hash_key[2]
        hash_key[0], hash_key[1] = seed, 1
        self.capacity = capacity
        self.n_addresses = n_addresses
        if n_addresses > MANY or clients_init(&self.clients, capacity, hash_key) != FP_OK:
            raise MemoryError

    def __dealloc__(self):
        clients_free(&self.clients)

    cdef uint64_t _address(self, uint32_t i, sockaddr_any_t *address) noexcept nogil:
        """Fill in address number `i`. Returns the service that it asks for."""
        cdef uint8_t *bytes6 = <uint8_t *>&address.v6.sin6_addr
        memset(address, 0, sizeof(sockaddr_any_t))
        address.v4.sin_port = htons(<uint16_t>self.roll(65536))     # is no part of who it is
        if i % 4 == 0:
            address.v4.sin_family = AF_INET
            (<uint8_t *>&address.v4.sin_addr)[3] = <uint8_t>(i // 8)
            return i // 4 % 2
        address.v6.sin6_family = AF_INET6
        bytes6[0] = 0xfd if i % 4 == 1 else 0x20
        bytes6[7] = <uint8_t>(i // 32)
        bytes6[15] = <uint8_t>i
        return i // 16 % 2

    cdef uint32_t _client(self, uint32_t i) noexcept nogil:
        """The first address that counts as the same client: one of the same /64."""
        return i // 16 * 16 + 2 if i % 4 >= 2 else i

    cdef void step(self) noexcept nogil:
        cdef uint32_t what = self.roll(8)
        cdef uint32_t i = self.roll(self.n_addresses)
        self.now_ms += self.roll(3)
        if what < 3:
            self._enter(i, self.roll(5))
        elif what < 5:
            self._leave(self._client(i))
        elif what < 7:
            self._remember(i)
        self._recall(self.roll(self.n_addresses), self.roll(40))
        self.expect(self.clients.slab.n_used == self._n_entries(), b"how many entries there are")

    cdef uint32_t _n_entries(self) noexcept nogil:
        cdef uint32_t n = 0
        cdef int i
        for i in range(MANY):
            n += (self.counted[i].n_open > 0) + (self.remembered[i].order > 0)
        return n

    cdef bint _make_room(self) noexcept nogil:
        """Whether one more fits, now that the oldest memory is gone if it must be."""
        cdef int i, oldest = NOBODY
        if self._n_entries() < self.capacity:
            return True
        for i in range(MANY):
            if self.remembered[i].order > 0 and (
                oldest == NOBODY or self.remembered[i].order < self.remembered[oldest].order
            ):
                oldest = i
        if oldest == NOBODY:
            return False
        self.remembered[oldest].order = 0
        return True

    cdef void _enter(self, uint32_t i, uint32_t limit) noexcept nogil:
        cdef counted_t *counted = &self.counted[self._client(i)]
        cdef known_client_t *known = NULL
        cdef sockaddr_any_t address
        cdef uint64_t service = self._address(i, &address)
        cdef bint may = counted.n_open < limit and (counted.n_open > 0 or self._make_room())
        cdef int result = clients_enter(&self.clients, service, &address, limit, &known)
        self.expect((result == FP_OK) == may, b"whether one more may enter")
        self.expect((known != NULL) == (result == FP_OK), b"what to leave by")
        if known == NULL or not may:
            return
        self.expect(counted.n_open == 0 or counted.known == known, b"one entry a client")
        counted.known = known
        counted.n_open += 1
        self.expect(known.n_open == counted.n_open, b"how many are open")

    cdef void _leave(self, uint32_t client) noexcept nogil:
        if self.counted[client].n_open > 0:
            clients_leave(&self.clients, self.counted[client].known)
            self.counted[client].n_open -= 1

    cdef void _remember(self, uint32_t i) noexcept nogil:
        cdef remembered_t *remembered = &self.remembered[i]
        cdef sockaddr_any_t address
        cdef uint64_t service = self._address(i, &address)
        cdef uint64_t backend = self.roll(1000)
        clients_remember(&self.clients, service, &address, backend, self.now_ms)
        if remembered.order > 0 or self._make_room():
            self.n_remembered += 1
            remembered.order = self.n_remembered
            remembered.backend = backend
            remembered.used_ms = self.now_ms

    cdef void _recall(self, uint32_t i, uint32_t timeout_ms) noexcept nogil:
        cdef remembered_t *remembered = &self.remembered[i]
        cdef sockaddr_any_t address
        cdef uint64_t service = self._address(i, &address)
        cdef uint64_t backend = 0
        cdef int result = clients_recall(
            &self.clients, service, &address, timeout_ms, self.now_ms, &backend
        )
        cdef bint known = (
            remembered.order > 0 and self.now_ms - remembered.used_ms < timeout_ms
        )
        self.expect((result == FP_OK) == known, b"whether it is remembered")
        self.expect(not known or backend == remembered.backend, b"which backend it had")
