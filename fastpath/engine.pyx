"""The engine's face to Python: worker threads, publishing of tables, counters.

The only module with threads and with exceptions about what runs. See engine.pyi for the contract.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from fastpath.abi cimport CUT_BACKEND, CUT_LISTENER, FP_OK, MAX_WORKERS, RELAYS_SERVICE, common_t
from fastpath.atomics cimport (
    add_shared, load_acquire, load_relaxed, load_signed, store_pointer, store_release,
)
from fastpath.checking cimport (
    checking_key, checking_remembered, checking_take, checking_tell,
)
from fastpath.explain cimport explain_flow
from fastpath.http.filters.credentials cimport credentials_t
from fastpath.http.filters.rates cimport rates_t
from fastpath.log cimport dropped_total, read_records, read_until_quiet
from fastpath.memory.slab cimport slab_free, slab_get, slab_init, slab_t
from fastpath.proxy.balance cimport balance_renew
from fastpath.proxy.clients cimport clients_free, clients_init, clients_t
from fastpath.proxy.sessions cimport SESSIONS_MAX
from fastpath.snapshot cimport Snapshot
from fastpath.sys_linux cimport EFD_CLOEXEC, EFD_NONBLOCK, eventfd, usleep
from fastpath.totals cimport (
    accepted_total, backend_total, each_worker, ends_total, http_total, is_ejected,
    open_total, rejected_total, relays_total, times_total, udp_total,
)
from fastpath.worker cimport (
    shared_t, worker_end, worker_free, worker_hand, worker_new, worker_pick_up, worker_protocols,
    worker_run, worker_t, worker_wake,
)

import errno
import os
import signal
import threading

from fastpath.counting import histogram, since
from fastpath.limits import limits_now, raise_descriptor_limit
from fastpath.numbering import Numbering, SlotNames
from fastpath.snapshot import compile as compile_tables
from fastpath.requests import RequestRecord
from fastpath.sockets import listen, prepare_stream, resolve
from fastpath.verifying import Verifier
from fastpath.conditions import Predicate
from fastpath.tables import (
    CONNECT_BOUNDS_S, SESSION_BOUNDS_S, TIMEOUT_MAX_MS, Backend, Flow, Gateway, HashOn,
    ListenError, Listener, LogRecord, Retries, Route, Service, Sticky, Tables, Target, check,
    place_of,
)

__all__ = [
    "Backend", "Engine", "Gateway", "HashOn", "ListenError", "Listener", "LogRecord", "Predicate",
    "RequestRecord", "Retries", "Route", "Service", "Sticky", "Tables", "Target",
]


cdef enum:
    SETTLE_US = 200000          # how long publish waits for the workers at most
    SETTLE_STEP_US = 50
    SLACK_US = 50               # that the kernel sleeps longer than asked (PR_SET_TIMERSLACK)


cdef class Engine:
    """Worker threads and the tables they work by."""

    cdef shared_t shared
    cdef worker_t *workers[MAX_WORKERS]
    cdef int n_workers
    cdef int next_worker        # for Engine.relay
    cdef uint64_t generation
    cdef int log_wake           # an eventfd; owned
    cdef int checks_wake        # likewise; the verifier's, which waits for it
    cdef bint started, draining, stopped
    cdef object connections, lock, numbering, tables
    cdef bytes hash_key
    cdef list threads
    cdef dict listening         # Listener.key -> descriptors
    cdef dict addresses         # slot -> address, of listeners that are gone too
    cdef list cuts              # (generation, kind, slot) that a worker may not have seen yet
    cdef slab_t common_memory
    cdef clients_t known_clients
    cdef slab_t rates_memory
    cdef slab_t credentials_memory
    cdef object verifier        # fastpath.verifying.Verifier; None: no route has needed one
    cdef object names           # SlotNames
    cdef list records           # of the log, that were read before their slots changed hands
    cdef dict baselines         # (kind, slot) -> counters when the slot changed hands
    cdef Snapshot current
    cdef list retired           # snapshots that a worker may still have: (generation after, it)

    def __init__(self, *, workers=1, connections=16384, hash_key=None):
        cdef bytes key = os.urandom(16) if hash_key is None else bytes(hash_key)
        cdef uint32_t capacity
        if self.lock is not None:
            raise RuntimeError("the engine is made already")
        if not 0 < workers <= MAX_WORKERS:
            raise ValueError(f"{workers} workers: not between 1 and {MAX_WORKERS}")
        if not 0 < connections <= 1 << 20:
            raise ValueError(f"{connections} connections: not between 1 and {1 << 20}")
        if len(key) != 16:
            raise ValueError(f"the hash key has {len(key)} bytes, not 16")
        self.log_wake = self.checks_wake = -1
        self.lock = threading.Lock()
        self.connections = connections
        self.numbering = Numbering()
        self.tables = Tables((), (), ())
        self.threads = []
        self.listening = {}
        self.addresses = {}
        self.cuts = []
        self.names = SlotNames({RELAYS_SERVICE: ""})
        self.records = []
        self.baselines = {}
        self.retired = []
        self.hash_key = key
        memcpy(self.shared.hash_key, <const char *>key, 16)
        self.log_wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        if slab_init(&self.common_memory, 1, sizeof(common_t)) != FP_OK:
            raise MemoryError
        self.shared.common = <common_t *>slab_get(&self.common_memory)     # fresh pages are zero
        # All that can be open have a client of their own, and as many may be remembered.
        n_open = connections + workers * min(connections, SESSIONS_MAX)
        if clients_init(&self.known_clients, 2 * n_open, self.shared.hash_key) != FP_OK:
            raise MemoryError
        self.shared.common.known_clients = &self.known_clients
        if slab_init(&self.rates_memory, 1, sizeof(rates_t)) != FP_OK:
            raise MemoryError
        self.shared.common.rates = slab_get(&self.rates_memory)
        if slab_init(&self.credentials_memory, 1, sizeof(credentials_t)) != FP_OK:
            raise MemoryError
        self.shared.common.credentials = slab_get(&self.credentials_memory)
        checking_key(self.shared.common, os.urandom(32))
        self.checks_wake = eventfd(0, EFD_CLOEXEC)
        self.shared.common.checks_wake = self.checks_wake
        self.shared.common.log_wake = self.log_wake
        self.shared.common.log_wanted = 1
        worker_protocols(self.shared.protocols)
        raise_descriptor_limit(connections, workers)
        # The kernel spreads connections by hash, not evenly: a worker may get more than its part.
        capacity = min(connections, connections * 5 // (4 * workers) + 64)
        for i in range(workers):
            self.workers[i] = worker_new(&self.shared, <uint16_t>i, capacity)
            if self.workers[i] == NULL:
                raise OSError("cannot set aside memory and descriptors for the workers")
            self.n_workers += 1
            self.shared.common.counters[i] = self.workers[i].loop.counters
            self.shared.common.n_workers += 1
        limits = limits_now(connections, workers, 0, udp=False)
        self._swap(compile_tables(self.tables, self.numbering, {}, limits, 0, False, [], key, None))

    def __dealloc__(self):
        # While threads run they hold a reference; so none does.
        cdef int i
        for i in range(self.n_workers):
            worker_free(self.workers[i])
        clients_free(&self.known_clients)
        slab_free(&self.common_memory)
        slab_free(&self.rates_memory)
        slab_free(&self.credentials_memory)
        if self.lock is not None:
            _close_all([fd for fd in (self.log_wake, self.checks_wake) if fd >= 0])

    def start(self):
        """Start the workers."""
        with self.lock:
            self._must_live()
            if self.started:
                raise RuntimeError("the engine has been started already")
            self.started = True
            for i in range(self.n_workers):
                thread = threading.Thread(
                    target=self._work, args=(i,), name=f"piagent-worker-{i}", daemon=True
                )
                self.threads.append(thread)
                thread.start()
            self._verify_for(self.tables)

    def _work(self, int i):
        """A thread's body."""
        cdef worker_t *worker = self.workers[i]
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        with nogil:
            worker_run(worker)

    def publish(self, tables):
        """Swap in new tables in one step and return their generation."""
        check(tables)
        with self.lock:
            self._must_live()
            if self.draining:
                tables = tables._replace(listeners=())
            return self._publish(tables)

    cdef object _publish(self, tables):
        self._verify_for(tables)
        numbering = self.numbering.assign(
            tables, self._is_idle, self._is_left, self._is_unused, settled=self._settled()
        )
        listening, opened = self._listen(tables.listeners)
        try:
            limits = limits_now(
                self.connections, self.n_workers, len(listening) * self.n_workers,
                udp=any([each.udp for each in tables.listeners]),
            )
            snapshot = compile_tables(
                tables, numbering, listening, limits, self.generation + 1, self.draining,
                self.cuts, self.hash_key, self.current,
            )
        except BaseException:
            _close_all(opened)
            raise
        self._note_new_hands(numbering)
        self.records += self._read()
        self.names.learn(numbering)
        balance_renew(self.shared.common, self.current.c, (<Snapshot>snapshot).c)
        self.numbering = numbering
        self.listening = listening
        for (address, _, _), slot in numbering.listeners.items():
            self.addresses[slot] = address
        self.tables = tables
        self.generation += 1
        self._swap(snapshot)
        return self.generation

    def _verify_for(self, tables):
        """Let credentials be checked by these tables and by those a worker may still have."""
        users = _users(tables) | _users(self.tables)
        if users and self.started and self.verifier is None:
            self.verifier = Verifier(
                self.checks_wake, self._take_asks, self._is_remembered, self._tell
            )
        if self.verifier is not None:
            self.verifier.know(users)

    def _take_asks(self):
        with self.lock:
            return None if self.stopped else checking_take(self.workers, self.n_workers)

    def _is_remembered(self, digest):
        return checking_remembered(self.shared.common, digest)

    def _tell(self, ask, is_right):
        with self.lock:
            if not self.stopped:
                checking_tell(
                    self.shared.common, self.workers[<int>ask.worker], ask.digest, is_right
                )

    cdef object _swap(self, Snapshot snapshot):
        """Publish a snapshot, and free those that no worker has any more."""
        cdef int i
        cdef int waited_us = 0
        if self.current is not None:
            self.retired.append((self.generation, self.current))
        self.current = snapshot
        store_pointer(<void **>&self.shared.snapshot, snapshot.c)
        for i in range(self.n_workers):
            if self.started:
                worker_wake(self.workers[i])
            else:
                worker_pick_up(self.workers[i])
        with nogil:
            while waited_us < SETTLE_US and not _all_seen(self):
                usleep(SETTLE_STEP_US)
                waited_us += SETTLE_STEP_US + SLACK_US
        if self._settled():
            self.retired.clear()
            self.cuts.clear()

    def _settled(self):
        return bool(_all_seen(self))

    cdef tuple _listen(self, listeners):
        """Open what is new. Returns what is listened on then, and the descriptors opened."""
        listening = {}
        opened = []
        for each in listeners:
            if each.key in self.listening:
                listening[each.key] = self.listening[each.key]
                continue
            alone = (each.port, each.udp) not in _ports(self.listening) | _ports(listening)
            endpoint = resolve(each.address, each.port)
            try:
                fds = listen(endpoint, self.n_workers, udp=each.udp, alone=alone)
            except OSError as error:
                _close_all(opened)
                raise ListenError(error, each) from error
            opened += fds
            listening[each.key] = fds
        return listening, opened

    def _is_idle(self, slot):
        """Whether no socket is open to the backend of this slot."""
        return backend_total(self.workers, self.n_workers, slot)["open"] == 0

    def _is_left(self, slot):
        """Whether no connection is open that the listener of this slot accepted."""
        return open_total(self.workers, self.n_workers, slot) == 0

    def _is_unused(self, slot):
        """Whether nothing is counted as in flight on the route of this slot."""
        return load_signed(&self.shared.common.in_flight[<int>slot]) == 0

    def _note_new_hands(self, numbering):
        """Remember where the counters of slots stand that now count for somebody else."""
        for slot in numbering.backends.values():
            if slot in self.numbering.backend_slots.retired:
                self.baselines["backend", slot] = self._backend_counters(slot)
        for slot in numbering.services.values():
            if slot in self.numbering.service_slots.retired:
                self.baselines["service", slot] = ends_total(self.workers, self.n_workers, slot)
        for slot in numbering.listeners.values():
            if slot in self.numbering.listener_slots.retired:
                self.baselines["listener", slot] = accepted_total(
                    self.workers, self.n_workers, slot
                )

    def _open_on(self, slots):
        return sum([open_total(self.workers, self.n_workers, slot) for slot in slots])

    def _slots_on(self, address):
        """The slots of listeners on this address, of those that are gone too."""
        return [slot for slot, each in self.addresses.items() if each == address]

    def drain(self):
        """Close the listeners; HTTP connections end with the exchange under way."""
        with self.lock:
            self._must_live()
            self.draining = True
            self._publish(self.tables._replace(listeners=()))

    def relay(self, client_fd, backend_fd, idle_timeout_ms=3_600_000):
        """Adopt two connected TCP sockets and relay between them until both sides have ended."""
        if not 0 <= idle_timeout_ms <= TIMEOUT_MAX_MS:
            raise ValueError(f"idle timeout of {idle_timeout_ms} ms is out of range")
        if client_fd == backend_fd:
            raise ValueError(f"descriptor {client_fd} cannot be both sides of a relay")
        with self.lock:
            self._must_live()
            prepare_stream(client_fd)
            prepare_stream(backend_fd)
            if self.draining:
                raise OSError(errno.ESHUTDOWN, "the engine is draining")
            if not self._hand_over(client_fd, backend_fd, idle_timeout_ms):
                raise OSError(errno.EAGAIN, "as many connections are open as there may be")

    cdef bint _hand_over(self, int client_fd, int backend_fd, uint32_t idle_timeout_ms):
        """Give two sockets to the next worker that has room; whether there is one."""
        cdef worker_t *worker
        if add_shared(&self.shared.common.clients, 1) <= self.current.c.clients_max:
            for _ in range(self.n_workers):
                worker = self.workers[self.next_worker]
                self.next_worker = (self.next_worker + 1) % self.n_workers
                if (
                    load_signed(&worker.loop.counters.clients) < worker.loop.capacity
                    and worker_hand(worker, client_fd, backend_fd, idle_timeout_ms) == FP_OK
                ):
                    return True
        add_shared(&self.shared.common.clients, -1)
        return False

    def active(self):
        """Client connections open now."""
        return load_signed(&self.shared.common.clients)

    def active_on(self, address):
        """Client connections open now that were accepted on this address."""
        with self.lock:
            self._must_live()
            return self._open_on(self._slots_on(address))

    def cut(self, address):
        """Reset the client connections that were accepted on this address."""
        with self.lock:
            self._must_live()
            slots = self._slots_on(address)
            n_open = self._open_on(slots)
            self._cut(CUT_LISTENER, slots)
            return n_open

    def cut_backends(self, backends):
        """Reset the client connections that these backends serve."""
        with self.lock:
            self._must_live()
            known = self.numbering.backends
            self._cut(CUT_BACKEND, [known[each] for each in backends if each in known])

    cdef object _cut(self, int kind, list slots):
        self.cuts += [(self.generation + 1, kind, slot) for slot in slots]
        self._publish(self.tables)

    def turns(self):
        """How often each worker has turned."""
        cdef int i
        with self.lock:
            self._must_live()
            turns = []
            for i in range(self.n_workers):
                turns.append(load_relaxed(&self.workers[i].loop.counters.turns))
                worker_wake(self.workers[i])
            return turns

    def log_fd(self):
        """Readable when there are records."""
        return self.log_wake

    def read_log(self):
        """The records since the last call."""
        with self.lock:
            records, self.records = self.records, []
            if not self.stopped:
                records += read_until_quiet(
                    self.shared.common, self.workers, self.n_workers, self.names
                )
            return records

    cdef list _read(self):
        return read_records(self.workers, self.n_workers, self.names)

    def stats(self):
        """Counters, summed over the workers."""
        with self.lock:
            self._must_live()
            return {
                "services": self._service_stats(),
                "ends": self._end_stats(),
                "listeners": self._listener_stats(),
                "relays": relays_total(self.workers, self.n_workers),
                "udp": udp_total(self.workers, self.n_workers),
                "rejected": rejected_total(self.workers, self.n_workers),
                "log_dropped": dropped_total(self.workers, self.n_workers),
                "workers": each_worker(self.workers, self.n_workers),
                "http": http_total(self.workers, self.n_workers, self.numbering.routes),
            }

    def _service_stats(self):
        services = {name: {} for name in self.numbering.services}
        for (service, backend), slot in self.numbering.backends.items():
            counters = since(self._backend_counters(slot), self.baselines.get(("backend", slot)))
            times = counters.pop("times")
            services[service][backend] = counters | {
                "connect_seconds": histogram(
                    times["connect"], CONNECT_BOUNDS_S, times["connect_us"] / 1e6
                ),
                "session_seconds": histogram(
                    times["session"], SESSION_BOUNDS_S, times["session_ms"] / 1e3
                ),
                "ejected": is_ejected(self.shared.common, self.current.c, slot),
            }
        return services

    def _backend_counters(self, slot):
        times = times_total(self.workers, self.n_workers, slot)
        return backend_total(self.workers, self.n_workers, slot) | {"times": times}

    def _end_stats(self):
        return {
            name: since(
                ends_total(self.workers, self.n_workers, slot),
                self.baselines.get(("service", slot)),
            )
            for name, slot in self.numbering.services.items()
        }

    def _listener_stats(self):
        listeners = {}
        for key, slot in self.numbering.listeners.items():
            accepted = accepted_total(self.workers, self.n_workers, slot)
            before = self.baselines.get(("listener", slot), 0)
            listeners[place_of(*key)] = {"accepted": accepted - before}
        return listeners

    def explain(self, src, sport, dst, dport, udp=False):
        """What becomes of a flow, and why."""
        with self.lock:
            self._must_live()
            return explain_flow(
                self.current.c, self.shared.common, self.shared.hash_key, self.tables,
                Flow(src, sport, dst, dport, bool(udp)),
            )

    def stop(self):
        """End the workers and free everything; the engine cannot be started again."""
        cdef int i
        with self.lock:
            if self.stopped:
                return
            self.stopped = True
            store_release(&self.shared.stop, 1)
            for i in range(self.n_workers):
                worker_wake(self.workers[i])
            for thread in self.threads:
                thread.join()
            for i in range(self.n_workers):
                worker_end(self.workers[i])
            self.records += self._read()
            for i in range(self.n_workers):
                worker_free(self.workers[i])
            self.n_workers = 0
            self.retired.clear()
            self.current = None
            # It ends when it comes here next; a check may still take its time.
            self.verifier = None
            os.eventfd_write(self.checks_wake, 1)

    def _must_live(self):
        if self.stopped:
            raise RuntimeError("the engine has been stopped")


cdef bint _all_seen(Engine self) noexcept nogil:
    """Whether every worker has gone over to the tables of now."""
    cdef int i
    for i in range(self.n_workers):
        if load_acquire(&self.workers[i].seen) < self.shared.snapshot.generation:
            return False
    return True


def _close_all(descriptors):
    for descriptor in descriptors:
        os.close(descriptor)


def _users(tables):
    """The sets of users that routes have."""
    routes = [route for each in tables.gateways for route in each.routes]
    return {route.filters.auth.users for route in routes if route.filters.auth is not None}


def _ports(listening):
    return {(port, udp) for _, port, udp in listening}
