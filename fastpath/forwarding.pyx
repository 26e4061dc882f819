"""The forwarder's face to Python: its thread, tables, counters. See forwarding.pyi."""

from libc.errno cimport ENODEV, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from fastpath.abi cimport FP_AGAIN, FP_OK, FP_RESET, MAX_BACKENDS, MAX_SERVICES
from fastpath.atomics cimport (
    load_acquire, load_pointer, load_relaxed, load_signed, store_pointer, store_release,
)
from fastpath.forward_tables cimport ForwardTables
from fastpath.memory.slab cimport slab_free, slab_get, slab_init, slab_t
from fastpath.packet.flow_cache cimport FlowCache
from fastpath.packet.flows cimport FLOW_ENDS, flows_uses
from fastpath.packet.forwarder cimport (
    forward_counters_t, forwarder_age, forwarder_flush, forwarder_free,
    forwarder_init, forwarder_pick_up, forwarder_t, forwarder_take,
)
from fastpath.packet.flow_record cimport RECORD_SIZE as _RECORD_SIZE
from fastpath.packet.forwards cimport forwards_t
from fastpath.packet.handover cimport (
    ADOPT_COUNT, HANDOVER_ADOPT, HANDOVER_DONE, HANDOVER_END, HANDOVER_EXPORT, HANDOVER_IDLE,
    handover_t, handover_turn,
)
from fastpath.packet.outcomes cimport FORWARD_COUNT
from fastpath.packet.parse cimport PARSE_COUNT
from fastpath.packet.sys_packet cimport sock_filter
from fastpath.packet.tap cimport (
    frame_t, tap_check, tap_filter, tap_free, tap_init, tap_mac, tap_next, tap_release,
    tap_statistics, tap_t,
)
from fastpath.packet.transmit cimport UNSENT_COUNT, transmit_init
from fastpath.rate cimport NS_PER_MS
from fastpath.sys_linux cimport (
    CLOCK_MONOTONIC, EFD_CLOEXEC, EFD_NONBLOCK, EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL,
    EPOLLERR, EPOLLIN, clock_gettime, close, epoll_create1, epoll_ctl, epoll_event, epoll_wait,
    eventfd, eventfd_read, eventfd_write, timespec, usleep,
)

import os
import signal
import struct
import threading

from fastpath.forward_tables import compile as compile_tables
from fastpath.flow_batches import batches, opened
from fastpath.forwards import check, packed
from fastpath.packet.verdicts import FLOW_ENDS as ENDED
from fastpath.packet.verdicts import ADOPTED, FORWARDED, UNSENT, VERDICTS
from fastpath.slots import Slots

__all__ = ["Forwarder", "TapError"]


cdef enum:
    _BATCH = 64                 # frames of one turn
    _SLOTS = 1024               # of the ring
    _TICK_MS = 10               # of a kernel with HZ=100, the longest
    _AGE_MS = 100               # between two looks at what is silent
    _SETTLE_STEP_US = 200
    _SETTLE_US = 1000000
    _HANDOVER_US = 500000       # that a caller waits for the thread at most

_FAILED = ("", "open a packet socket", "find the interface", "set an option of packet sockets",
           "set the filter", "map the ring", "bind to the interface")
_INSTRUCTION = struct.Struct("=HBBI")
_NOTHING = ((0x06, 0, 0, 0),)   # classic BPF: no frame


class TapError(OSError):
    """Frames cannot be had from an interface; the text says why."""


cdef struct _thread_t:
    forwarder_t forwarder
    tap_t tap
    void *next_tables           # forwards_t, for the thread to pick up
    uint64_t seen               # generation of the tables that it works by
    handover_t handover         # asked for by others, done by the thread
    uint64_t stop
    uint64_t gone               # whether the interface is gone for good
    uint64_t lease_ns
    int epoll
    int wake


cdef class Forwarder:
    cdef slab_t memory
    cdef _thread_t *thread
    cdef uint64_t generation    # of the latest tables
    cdef object runner, lock, services, backends
    cdef object asking          # a lock: one hand-over at a time
    cdef uint8_t *asked_memory  # its records, also of one that nobody waits for any more
    cdef ForwardTables current
    cdef list retired           # tables that the thread may still have
    cdef FlowCache cache
    cdef dict service_names     # slot -> name
    cdef bint tapped

    def __cinit__(self):
        if slab_init(&self.memory, 1, sizeof(_thread_t)) != FP_OK:
            raise MemoryError
        self.thread = <_thread_t *>slab_get(&self.memory)       # fresh pages are zero
        self.thread.epoll = -1
        self.thread.wake = -1

    def __init__(
        self, interface, mtu, *, hash_key, ports=(49152, 57343), new_flows=16384, flows=65536,
        new_flows_per_s=None, FlowCache cache=None,
    ):
        cdef bytes key = bytes(hash_key)
        cdef uint64_t words[2]
        cdef int result
        if len(key) != 16:
            raise ValueError(f"the hash key has {len(key)} bytes, not 16")
        memcpy(words, <const uint8_t *>key, 16)
        self.lock = threading.Lock()
        self.asking = threading.Lock()
        self.services = Slots("forwarded ports", MAX_SERVICES)
        self.backends = Slots("backends", MAX_BACKENDS)
        self.retired = []
        self.service_names = {}
        result = forwarder_init(
            &self.thread.forwarder, words, new_flows, flows, ports[0], ports[1]
        )
        if result == FP_OK:
            result = transmit_init(&self.thread.forwarder.outlet.transmit, True)
        if result != FP_OK:
            raise OSError(errno, "cannot set the forwarder up: " + os.strerror(errno))
        self.thread.forwarder.flows.new_per_s = (
            new_flows if new_flows_per_s is None else new_flows_per_s
        )
        self.thread.forwarder.outlet.interface = interface
        self.thread.forwarder.outlet.mtu = mtu
        self.thread.lease_ns = ~<uint64_t>0
        self.thread.forwarder.lease_ns = &self.thread.lease_ns
        self.cache = cache
        if cache is not None:
            self._use_cache(cache)
        self._open_tap(interface)
        if cache is not None:
            cache.hide_from(self.thread.tap.fd)
        self._open_events()
        self._publish(())

    def __dealloc__(self):
        # While the thread runs it holds a reference; so it does not.
        if self.thread == NULL:
            return
        if self.tapped:
            tap_free(&self.thread.tap)
        if self.thread.forwarder.counters != NULL:
            forwarder_free(&self.thread.forwarder)
        if self.thread.epoll >= 0:
            close(self.thread.epoll)
        if self.thread.wake >= 0:
            close(self.thread.wake)
        free(self.asked_memory)
        slab_free(&self.memory)

    cdef object _use_cache(self, FlowCache cache):
        if cache.map.n_uses < flows_uses(&self.thread.forwarder.flows):
            raise ValueError("the flow cache has too few places to count in")
        self.thread.forwarder.map = &cache.map
        self.thread.forwarder.flows.uses = cache.map.uses

    cdef object _open_tap(self, uint32_t interface):
        cdef sock_filter *program = _program(_NOTHING)
        result = tap_init(&self.thread.tap, interface, program, 1, _SLOTS)
        free(program)
        if result != FP_OK:
            number = self.thread.tap.error
            raise TapError(
                number,
                f"cannot {_FAILED[self.thread.tap.failed]}: {os.strerror(number)}"
                " (it takes CAP_NET_RAW and an interface that is there)",
            )
        self.tapped = True

    cdef object _open_events(self):
        cdef epoll_event event
        self.thread.epoll = epoll_create1(EPOLL_CLOEXEC)
        self.thread.wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        if self.thread.epoll < 0 or self.thread.wake < 0:
            raise OSError(errno, "cannot wait for frames: " + os.strerror(errno))
        event.events = EPOLLIN
        for descriptor in (self.thread.tap.fd, self.thread.wake):
            event.data.ptr = NULL if descriptor == self.thread.wake else &self.thread.tap
            if epoll_ctl(self.thread.epoll, EPOLL_CTL_ADD, descriptor, &event) != 0:
                raise OSError(errno, "cannot wait for frames: " + os.strerror(errno))

    def start(self):
        if self.runner is not None:
            raise RuntimeError("the forwarder has been started already")
        self.runner = threading.Thread(target=self._work, name="piagent-forwarder", daemon=True)
        self.runner.start()

    def _work(self):
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        with nogil:
            _run(self.thread)

    def stop(self):
        store_release(&self.thread.stop, 1)
        eventfd_write(self.thread.wake, 1)
        if self.runner is not None:
            self.runner.join()

    def publish(self, forwards, program):
        check(forwards)
        with self.lock:
            self._publish(tuple(forwards))
            self._set_filter(program)

    def hold(self, int ms):
        cdef uint64_t until_ms = _now_ms() + <uint64_t>max(ms, 0)
        store_release(&self.thread.lease_ns, until_ms * NS_PER_MS)
        if self.cache is not None:
            # The kernel's clock of flows may be late by a tick, and its packets come up then.
            store_release(self.cache.map.lease_ns, (until_ms - _TICK_MS) * NS_PER_MS)

    cdef object _publish(self, tuple forwards):
        settled = self._settled()
        # What ends with the tables that are gone ends when the thread picks the new ones up.
        self.services = self.services.assign(
            [each.name for each in forwards], lambda slot: settled
        )
        self.backends = self.backends.assign(
            [(each.name, target.name) for each in forwards for target in each.targets],
            lambda slot: settled,
        )
        self.service_names.update((slot, name) for name, slot in self.services.used.items())
        tables = compile_tables(
            forwards, self.services.used, self.backends.used, self.generation + 1, self.current
        )
        self.generation += 1
        self.retired.append(self.current)
        self.current = tables
        store_pointer(&self.thread.next_tables, (<ForwardTables>tables).c)
        eventfd_write(self.thread.wake, 1)
        self._settle()

    cdef object _settle(self):
        """Wait for the thread a little, then let go of what it cannot have any more."""
        cdef uint64_t waited = 0
        if self.runner is not None:
            with nogil:
                while waited < _SETTLE_US and not self._settled():
                    usleep(_SETTLE_STEP_US)
                    waited += _SETTLE_STEP_US
        if self._settled():
            self.retired = []

    cdef bint _settled(self) noexcept nogil:
        """Whether the thread works by the latest tables."""
        return load_acquire(&self.thread.seen) == self.generation

    cdef object _set_filter(self, program):
        cdef sock_filter *instructions = _program(program)
        result = tap_filter(&self.thread.tap, instructions, <uint16_t>len(program))
        number = errno
        free(instructions)
        if result != FP_OK:
            raise TapError(number, f"cannot set the filter: {os.strerror(number)}")

    @property
    def is_gone(self):
        return bool(load_acquire(&self.thread.gone))

    # ---- flows that another node goes on with, or has gone on with until now ----

    def export(self, address, most=16384, each=800):
        cdef bytes vip = packed(address)
        with self.asking:
            room = self.thread.forwarder.flows.confirmed_max
            return batches(vip, self._ask(HANDOVER_EXPORT, vip, b"", room), most, each)

    def adopt(self, address, batch):
        cdef bytes vip = packed(address)
        cdef bytes records = opened(vip, batch)
        with self.asking:
            before = self._adopted()
            self._ask(HANDOVER_ADOPT, vip, records, <uint32_t>(len(records) // _RECORD_SIZE))
            after = self._adopted()
            return {what: n - before[what] for what, n in after.items() if n != before[what]}

    def end(self, address):
        with self.asking:
            self._ask(HANDOVER_END, packed(address), b"", 0)
            return self.thread.handover.n_done

    cdef bytes _ask(self, uint64_t command, bytes vip, bytes records, uint32_t n):
        """Have the thread do it, and wait; the records that it has written. TimeoutError."""
        cdef handover_t *handover = &self.thread.handover
        cdef uint64_t waited = 0
        if load_acquire(&handover.state) not in (HANDOVER_IDLE, HANDOVER_DONE):
            raise TimeoutError("the forwarder is busy with what it was asked for before")
        if tap_mac(&self.thread.tap, handover.own_mac) != FP_OK:
            raise TapError(ENODEV, "no flows are handed over: the interface is gone")
        free(self.asked_memory)
        self.asked_memory = <uint8_t *>malloc(<size_t>n * _RECORD_SIZE + 1)
        if self.asked_memory == NULL:
            raise MemoryError
        memcpy(self.asked_memory, <const uint8_t *>records, len(records))
        memcpy(handover.vip, <const uint8_t *>vip, 16)
        handover.records = self.asked_memory
        handover.n = n
        handover.cursor = 0
        handover.n_done = 0
        store_release(&handover.state, command)
        eventfd_write(self.thread.wake, 1)
        with nogil:
            while load_acquire(&handover.state) != HANDOVER_DONE and waited < _HANDOVER_US:
                usleep(_SETTLE_STEP_US)
                waited += _SETTLE_STEP_US
        if load_acquire(&handover.state) != HANDOVER_DONE:
            raise TimeoutError("the forwarder does not answer")
        n = handover.n_done if command == HANDOVER_EXPORT else 0
        written = self.asked_memory[:<size_t>n * _RECORD_SIZE]
        free(self.asked_memory)
        self.asked_memory = NULL
        return written

    cdef dict _adopted(self):
        return {
            ADOPTED[i]: load_relaxed(&self.thread.handover.adopted[i]) for i in range(ADOPT_COUNT)
        }

    def stats(self):
        cdef forwarder_t *forwarder = &self.thread.forwarder
        cdef tap_t *tap = &self.thread.tap
        services = {
            name: _counted(&forwarder.counters[slot]) for slot, name in self.service_names.items()
        }
        return {
            "services": services,
            "others": _counted(&forwarder.counters[MAX_SERVICES]),
            "frames": {
                VERDICTS[i]: load_relaxed(&forwarder.parsed[i]) for i in range(PARSE_COUNT)
            },
            "flows": {
                "new": load_signed(&forwarder.flows.counters.n_new),
                "confirmed": load_signed(&forwarder.flows.counters.n_confirmed),
                "added": load_relaxed(&forwarder.flows.counters.added),
                "ended": {
                    ENDED[i]: load_relaxed(&forwarder.flows.counters.ended[i])
                    for i in range(FLOW_ENDS)
                },
                "from_others": self._adopted(),
            },
            "tap": {
                "frames": load_relaxed(&tap.counters.frames),
                "long_frames": load_relaxed(&tap.counters.long_frames),
                "dropped": load_relaxed(&tap.counters.dropped),
                "truncated": load_relaxed(&tap.counters.truncated),
                "down": load_relaxed(&tap.counters.down),
            },
            "sent": load_relaxed(&forwarder.outlet.transmit.sent),
            "unsent": {
                UNSENT[i]: load_relaxed(&forwarder.outlet.transmit.dropped[i])
                for i in range(UNSENT_COUNT)
            },
        }


cdef sock_filter *_program(program) except NULL:
    """Classic BPF as the kernel takes it; the caller frees it."""
    cdef bytes code = b"".join([_INSTRUCTION.pack(*each) for each in program])
    cdef sock_filter *instructions = <sock_filter *>malloc(max(len(code), 1))
    if instructions == NULL:
        raise MemoryError
    memcpy(instructions, <const uint8_t *>code, len(code))
    return instructions


cdef dict _counted(forward_counters_t *counters):
    result = {FORWARDED[i]: load_relaxed(&counters.packets[i]) for i in range(FORWARD_COUNT)}
    return {
        "packets": result,
        "bytes": load_relaxed(&counters.bytes),
        "new_flows": load_relaxed(&counters.new_flows),
        "stateless": load_relaxed(&counters.stateless),
    }


# ---- the thread ----

cdef uint64_t _now_ms() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * 1000 + <uint64_t>now.tv_nsec // 1000000


cdef int _take_batch(_thread_t *self) noexcept nogil:
    """Some frames; FP_AGAIN when there are no more."""
    cdef frame_t frame
    cdef int _i, result = FP_OK
    for _i in range(_BATCH):
        result = tap_next(&self.tap, &frame)
        if result != FP_OK:
            break
        forwarder_take(&self.forwarder, &frame)
    forwarder_flush(&self.forwarder)
    tap_release(&self.tap)
    return FP_AGAIN if result == FP_AGAIN else FP_OK


cdef void _pick_up(_thread_t *self) noexcept nogil:
    cdef forwards_t *tables = <forwards_t *>load_pointer(&self.next_tables)
    if tables != self.forwarder.tables:
        forwarder_pick_up(&self.forwarder, tables)
        store_release(&self.seen, tables.generation)


cdef void _run(_thread_t *self) noexcept nogil:
    cdef epoll_event events[2]
    cdef uint64_t woken = 0
    cdef uint64_t aged_ms = 0
    cdef int i, n, patience, result = FP_AGAIN
    while not load_acquire(&self.stop):
        patience = -1
        if self.forwarder.flows.counters.n_new + self.forwarder.flows.counters.n_confirmed > 0:
            patience = _AGE_MS
        n = epoll_wait(self.epoll, events, 2, patience if result == FP_AGAIN else 0)
        self.forwarder.now_ms = _now_ms()
        for i in range(max(n, 0)):
            if events[i].data.ptr == NULL:
                eventfd_read(self.wake, &woken)
            elif events[i].events & EPOLLERR and tap_check(&self.tap) == FP_RESET:
                # Nothing more comes from it, and the error stays: it would wake us for ever.
                epoll_ctl(self.epoll, EPOLL_CTL_DEL, self.tap.fd, NULL)
                store_release(&self.gone, 1)
        _pick_up(self)
        result = _take_batch(self)
        if handover_turn(&self.handover, &self.forwarder):
            result = FP_OK              # there is more to do
        if self.forwarder.now_ms - aged_ms >= _AGE_MS:
            aged_ms = self.forwarder.now_ms
            tap_statistics(&self.tap)
            forwarder_age(&self.forwarder)
