"""The flow cache as a whole: programs, maps, and where they are attached. See flow_cache.pyi.

Set-up with Python objects and exceptions; what the forwarder calls for its flows is flow_map.
"""

from libc.errno cimport E2BIG, EACCES, EBUSY, EINVAL, EOPNOTSUPP, EPERM
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from fastpath.abi cimport FP_BAD, FP_FULL, FP_OK
from fastpath.atomics cimport load_relaxed
from fastpath.packet.bpf cimport (
    BPF_LD_IMM64, BPF_PROG_TYPE_SCHED_CLS, BPF_PROG_TYPE_SOCKET_FILTER, BPF_PROG_TYPE_XDP,
    BPF_PSEUDO_MAP_FD, BPF_TCX_INGRESS, BPF_XDP, XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE,
    bpf_link_detach, bpf_link_new, bpf_link_update, bpf_map_get, bpf_map_next, bpf_pin, bpf_pinned,
    bpf_program_name, bpf_program_new, bpf_program_run, bpf_run_t,
)
from fastpath.packet.flow cimport flow_key_t, rewrite_t
from fastpath.packet.flow_map cimport (
    FLOW_MAP_INTERFACES, flow_map_clear, flow_map_delete, flow_map_free, flow_map_init,
    flow_map_put, flow_map_take,
)
from fastpath.sys_linux cimport close, ntohs

import os
import socket
import struct
from typing import NamedTuple

from fastpath.packet.attachment import HOWS, choose
from fastpath.packet.interfaces import interface as ask


cdef extern from "flow_cache_code.h":
    const uint64_t FLOW_CACHE_XDP[1]
    const uint64_t FLOW_CACHE_TC[1]
    const uint64_t FLOW_CACHE_TAP[1]
    enum: FLOW_CACHE_XDP_SIZE
    enum: FLOW_CACHE_TC_SIZE
    enum: FLOW_CACHE_TAP_SIZE


cdef enum:
    LOG_SIZE = 1 << 20
    FRAME_MAX = 1 << 16
    STEPS_MAX = 1 << 23         # through a map: twice what it can have
    SKB_CONTEXT_SIZE = 192      # struct __sk_buff, as far as we know it
    SKB_INTERFACE = 40          # offsets in it
    SKB_GSO_SEGMENTS = 164
    SKB_GSO_SIZE = 176
    XDP_CONTEXT_SIZE = 24       # struct xdp_md
    XDP_DATA_END = 4
    XDP_INTERFACE = 12


# linux/if_packet.h and linux/filter.h
_SOL_PACKET, _PACKET_FANOUT, _PACKET_FANOUT_DATA, _SO_ATTACH_FILTER = 263, 18, 22, 26
_BY_PROGRAM, _NOT_WHAT_GOES_OUT, _NEW_GROUP = 7, 0x4000, 0x2000
_DROP_ALL = struct.pack("=HBBI", 0x06, 0, 0, 0)


class Unavailable(OSError):
    """The kernel does not let us."""


class Stats(NamedTuple):
    """Counters since the start."""

    flows: int
    put: int
    deleted: int
    full: int


class Use(NamedTuple):
    """What the kernel carried of one direction of a flow."""

    packets: int
    bytes: int
    last_ns: int


class Carried(NamedTuple):
    """How the kernel carries one direction of a flow."""

    interface: int
    mac: bytes
    address: bytes
    port: int
    use: Use


class Ran(NamedTuple):
    """What became of a frame in a program."""

    verdict: int
    frame: bytes
    ns: int


cdef object _unavailable(str what, int error):
    """The exception for a negative errno."""
    cures = {
        EPERM: "no right to: run with AmbientCapabilities=CAP_BPF CAP_NET_ADMIN",
        EACCES: "the kernel's verifier refuses the program",
        EBUSY: "another program is attached",
    }
    text = cures.get(-error, os.strerror(-error))
    return Unavailable(-error, f"{what}: {text}")


cdef int _load(
    FlowCache cache, str name, uint32_t kind, const uint64_t *code, uint32_t n
) except -1:
    """Descriptor of a program, its maps being those of the cache."""
    cdef int maps[3]
    cdef int result
    cdef uint32_t i
    cdef uint8_t *instruction
    cdef uint64_t *copy = <uint64_t *>calloc(n, sizeof(uint64_t))
    cdef char *log = NULL
    cdef bytes called = f"piagent_{name}".encode()
    cdef uint32_t where = BPF_XDP if kind == BPF_PROG_TYPE_XDP else 0
    if copy == NULL:
        raise MemoryError
    maps[0] = cache.map.flows
    maps[1] = cache.map.uses_fd
    maps[2] = cache.map.lease_fd
    memcpy(copy, code, n * sizeof(uint64_t))
    for i in range(n):
        instruction = <uint8_t *>&copy[i]
        if instruction[0] == BPF_LD_IMM64 and instruction[1] >> 4 == BPF_PSEUDO_MAP_FD:
            memcpy(instruction + 4, &maps[instruction[4]], 4)
    result = bpf_program_new(kind, where, copy, n, called, NULL, 0)
    if result == -EACCES or result == -EINVAL or result == -E2BIG:
        # Once more, for the verifier's words.
        log = <char *>calloc(1, LOG_SIZE)
        if log != NULL:
            result = bpf_program_new(kind, where, copy, n, called, log, LOG_SIZE)
    said = "" if log == NULL else bytes(log).decode(errors="replace").strip()
    free(log)
    free(copy)
    if result < 0:
        error = _unavailable(f"loading the flow cache's program for {name}", result)
        raise Unavailable(error.errno, f"{error.strerror}\n{said}".strip())
    return result


cdef class FlowCache:
    """Maps and programs of the flow cache."""

    def __cinit__(self):
        self.map.flows = self.map.uses_fd = self.map.lease_fd = -1
        self.xdp = self.tc = self.tap = -1
        self.deaf = []
        self.mode = "none"
        self.reason = "not opened"

    def __init__(self, flows=65536, uses=0, *, pin=""):
        if self.map.flows >= 0:
            raise RuntimeError("the flow cache is made already")
        if not 0 < flows <= 1 << 22 or not 0 <= uses <= 1 << 23:
            raise ValueError(f"{flows} flows and {uses} uses: at most {1 << 22} and {1 << 23}")
        self.pin = pin
        self._make_maps(flows, uses or flows)
        self.tc = _load(self, "tc", BPF_PROG_TYPE_SCHED_CLS, FLOW_CACHE_TC, FLOW_CACHE_TC_SIZE)
        self.tap = _load(
            self, "tap", BPF_PROG_TYPE_SOCKET_FILTER, FLOW_CACHE_TAP, FLOW_CACHE_TAP_SIZE
        )
        self.xdp = _load(self, "xdp", BPF_PROG_TYPE_XDP, FLOW_CACHE_XDP, FLOW_CACHE_XDP_SIZE)

    def __dealloc__(self):
        self._detach()
        for fd in (self.xdp, self.tc, self.tap):
            if fd >= 0:
                close(fd)
        flow_map_free(&self.map)

    def open(self, interfaces, how="auto"):
        """Attach to interfaces, by index."""
        if self.n_links:
            raise RuntimeError("the flow cache is open already")
        if how not in HOWS:
            raise ValueError(f"{how!r}: one of {', '.join(HOWS)}")
        if not 0 < len(set(interfaces)) == len(interfaces) <= FLOW_MAP_INTERFACES:
            raise ValueError(f"1 to {FLOW_MAP_INTERFACES} interfaces, each one once")
        asked = [self._free_of_ours(ask(index)) for index in interfaces]
        self.mode, self.reason = choose(how, asked)
        if self.mode == "none":
            raise Unavailable(EBUSY, self._named(asked))
        try:
            self._attach(asked)
        except Unavailable as error:
            if how != "auto" or self.mode == "tc":
                self.mode, self.reason = "none", error.strerror
                raise
            self.close()
            self.open(interfaces, "tc")
            self.reason = f"no native XDP: {error.strerror}"

    def close(self):
        """Detach, and carry no flow."""
        self.map.n_interfaces = 0
        self._detach()
        self._unpin(set(), maps=False)
        while self.deaf:
            self.deaf.pop().close()
        flow_map_clear(&self.map)
        self.mode, self.reason = "none", "closed"

    cdef void _detach(self) noexcept:
        while self.n_links > 0:
            self.n_links -= 1
            close(self.links[self.n_links])

    def _attach(self, asked):
        """In the mode that is set, or nowhere."""
        cdef int program = self.tc if self.mode == "tc" else self.xdp
        cdef uint32_t where = BPF_TCX_INGRESS if self.mode == "tc" else BPF_XDP
        cdef uint32_t flags = 0
        cdef int link
        if self.mode != "tc":
            flags = XDP_FLAGS_DRV_MODE if self.mode == "xdp" else XDP_FLAGS_SKB_MODE
        self._unpin({self._place(each.number) for each in asked}, maps=False)
        for each in asked:
            link = self._former(each.number, program)
            if link < 0:
                link = bpf_link_new(program, each.number, where, flags)
            if link < 0:
                self._detach()
                if link == -EINVAL and self.mode == "tc":
                    raise Unavailable(EOPNOTSUPP, f"{each.name}: tc links came with Linux 6.6")
                raise _unavailable(f"attaching to {each.name} by {self.mode}", link)
            self.links[self.n_links] = link
            self.n_links += 1
            self._keep(link, self._place(each.number))
        for i, each in enumerate(asked):
            self.map.interfaces[i] = each.number
        self.map.n_interfaces = len(asked)

    # ---- what outlives the process, if that is wanted ----

    def _make_maps(self, uint32_t n_flows, uint32_t n_uses):
        """Those that are pinned, if they are of this size, else new ones."""
        cdef int flows = -1
        cdef int uses = -1
        cdef int result
        if self.pin:
            os.makedirs(self.pin, mode=0o700, exist_ok=True)
            flows = bpf_pinned(self._path("flows"))
            uses = bpf_pinned(self._path("uses"))
            if flows >= 0 and uses >= 0:
                self.adopted = flow_map_take(&self.map, flows, uses, n_flows, n_uses) == 0
                if self.adopted:
                    return
            else:
                for fd in (flows, uses):
                    if fd >= 0:
                        close(fd)
            self._unpin(set(), maps=True)
        result = flow_map_init(&self.map, n_flows, n_uses)
        if result < 0:
            raise _unavailable("making the flow cache's maps", result)
        self._keep(self.map.flows, "flows")
        self._keep(self.map.uses_fd, "uses")

    def _path(self, name):
        return os.fsencode(os.path.join(self.pin, name))

    def _place(self, number):
        """The name of the link to an interface."""
        return f"{self.mode}-{number}"

    def _keep(self, int fd, name):
        """Pin it, unless it is already or need not be."""
        cdef int result
        if not self.pin or os.path.exists(self._path(name)):
            return
        result = bpf_pin(fd, self._path(name))
        if result < 0:
            self._detach()
            raise Unavailable(
                -result, f"{self.pin}: is in no BPF file system (mount -t bpf bpf /sys/fs/bpf), "
                f"or there is no right to: {os.strerror(-result)}"
            )

    def _former(self, number, int program):
        """The link that a former process left, which runs our program now; negative: none."""
        cdef int link
        if not self.pin:
            return -1
        link = bpf_pinned(self._path(self._place(number)))
        if link >= 0 and bpf_link_update(link, program) < 0:
            close(link)     # its interface is gone
            os.unlink(self._path(self._place(number)))
            return -1
        return link

    def _unpin(self, wanted, *, maps):
        """Forget what is pinned of us but these; programs are detached by it."""
        cdef int link
        for name in set(os.listdir(self.pin) if self.pin else ()) - wanted:
            if name not in {"flows", "uses"}:
                link = bpf_pinned(self._path(name))
                if link >= 0:
                    bpf_link_detach(link)   # the kernel takes its time after an unlink
                    close(link)
            elif not maps:
                continue
            os.unlink(self._path(name))

    def _free_of_ours(self, interface):
        """The interface without the program that a former process left there for us."""
        if self.pin and any(
            os.path.exists(self._path(f"{mode}-{interface.number}"))
            for mode in ("xdp", "xdp-generic")
        ):
            return interface._replace(xdp_program=0)
        return interface

    def _named(self, asked):
        """The reason, with the name of the program that is in the way if we may know it."""
        cdef char name[16]
        for each in asked:
            if each.xdp_program and bpf_program_name(each.xdp_program, name) == 0:
                return f"{self.reason}: {(<bytes>name).decode(errors='replace')}"
        return self.reason

    def put(self, key, rewrite):
        """Carry a flow by a rewrite."""
        cdef flow_key_t flow
        cdef rewrite_t by
        cdef int result
        _copy(&flow, key, sizeof(flow))
        _copy(&by, rewrite, sizeof(by))
        result = flow_map_put(&self.map, &flow, &by)
        if result == FP_BAD:
            raise ValueError(
                f"how {by.how}, use {by.use} of {self.map.n_uses}, or interface {by.interface}"
            )
        return result != FP_FULL

    def delete(self, key):
        """No longer carry a flow."""
        cdef flow_key_t flow
        _copy(&flow, key, sizeof(flow))
        return flow_map_delete(&self.map, &flow) == FP_OK

    def carried(self):
        """Key and rewrite of each flow."""
        cdef flow_key_t key
        cdef rewrite_t by
        cdef int result = bpf_map_next(self.map.flows, NULL, &key)
        flows = {}
        # After a key that somebody deletes the walk begins anew; so it is bounded.
        for _step in range(STEPS_MAX):
            if result != 0:
                break
            if bpf_map_get(self.map.flows, &key, &by) == 0:
                flows[(<uint8_t *>&key)[:sizeof(key)]] = (<uint8_t *>&by)[:sizeof(by)]
            result = bpf_map_next(self.map.flows, &key, &key)
        return list(flows.items())

    def find(self, key):
        """How a flow is carried."""
        cdef flow_key_t flow
        cdef rewrite_t by
        _copy(&flow, key, sizeof(flow))
        if bpf_map_get(self.map.flows, &flow, &by) != 0:
            return None
        return Carried(
            by.interface, by.destination_mac[:6], by.destination[:16], ntohs(by.destination_port),
            self.use(by.use),
        )

    def use(self, index):
        """What was counted at a rewrite's `use`."""
        if not 0 <= index < self.map.n_uses:
            raise IndexError(f"{index}: there are {self.map.n_uses}")
        at = &self.map.uses[<uint32_t>index]
        return Use(load_relaxed(&at.packets), load_relaxed(&at.bytes), load_relaxed(&at.last_ns))

    def stats(self):
        """Counters."""
        cdef flow_key_t key
        cdef uint64_t n = 0
        cdef int result = bpf_map_next(self.map.flows, NULL, &key)
        while result == 0 and n < STEPS_MAX:
            n += 1
            result = bpf_map_next(self.map.flows, &key, &key)
        return Stats(
            n, load_relaxed(&self.map.put), load_relaxed(&self.map.deleted),
            load_relaxed(&self.map.full),
        )

    def hide_from(self, tap):
        """Let a tap no longer have what tc is about to carry."""
        cdef bytearray program = bytearray(_DROP_ALL)
        if self.mode != "tc":
            return
        kind = _BY_PROGRAM | _NOT_WHAT_GOES_OUT
        own = socket.socket(fileno=os.dup(tap))
        deaf = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        try:
            own.setsockopt(_SOL_PACKET, _PACKET_FANOUT, (kind | _NEW_GROUP) << 16)
            own.setsockopt(_SOL_PACKET, _PACKET_FANOUT_DATA, self.tap)
            group = own.getsockopt(_SOL_PACKET, _PACKET_FANOUT) & 0xffff
            fprog = struct.pack("@HP", 1, <size_t><uint8_t *>program)
            deaf.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)
            deaf.bind(own.getsockname()[:2])
            deaf.setsockopt(_SOL_PACKET, _PACKET_FANOUT, kind << 16 | group)
            self.deaf.append(deaf)
        except BaseException:
            deaf.close()
            raise
        finally:
            own.close()

    def run(self, program, bytes frame, *, interface=0, gso=(0, 0), repeat=1):
        """Let a program have a frame that no interface has seen."""
        cdef bpf_run_t run
        cdef uint8_t context[SKB_CONTEXT_SIZE]
        cdef uint32_t words[3]
        cdef int result
        programs = {"xdp": self.xdp, "tc": self.tc, "tap": self.tap}
        if len(frame) > FRAME_MAX:
            raise ValueError(f"{len(frame)} bytes, {FRAME_MAX} at most")
        room = bytearray(len(frame) + 256)
        memset(&run, 0, sizeof(run))
        memset(context, 0, sizeof(context))
        words[0], words[1], words[2] = interface, gso[0], gso[1]
        if program == "xdp":
            run.context_size = XDP_CONTEXT_SIZE
            memcpy(context + XDP_INTERFACE, &words[0], 4)
            words[0] = len(frame)
            memcpy(context + XDP_DATA_END, &words[0], 4)
        else:
            run.context_size = SKB_CONTEXT_SIZE
            memcpy(context + SKB_INTERFACE, &words[0], 4)
            memcpy(context + SKB_GSO_SEGMENTS, &words[1], 4)
            memcpy(context + SKB_GSO_SIZE, &words[2], 4)
        run.context = context
        run.frame = <const uint8_t *>frame
        run.frame_size = len(frame)
        run.result = <uint8_t *>room
        run.result_size = len(room)
        run.repeat = repeat
        result = bpf_program_run(programs[program], &run)
        if result < 0:
            raise OSError(-result, f"running {program}: {os.strerror(-result)}")
        return Ran(run.verdict, bytes(room[:run.result_size]), run.run_ns)


cdef int _copy(void *target, bytes source, Py_ssize_t size) except -1:
    """A structure from its bytes."""
    if len(source) != size:
        raise ValueError(f"{len(source)} bytes, not {size}")
    memcpy(target, <const uint8_t *>source, size)
    return 0
