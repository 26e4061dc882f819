"""Python's way into the packet code, for the tests; built with PIAGENT_PROBE=1 only."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from posix.mman cimport (
    MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_NONE, PROT_READ, PROT_WRITE, mmap, mprotect,
)
from posix.time cimport CLOCK_THREAD_CPUTIME_ID, clock_gettime, timespec

from fastpath.abi cimport FP_OK
from fastpath.packet.answer cimport (
    ANSWER_SIZE_MAX, answer_echo, answer_error, answer_expired, answer_too_big,
)
from fastpath.packet.checksum cimport (
    checksum_add, checksum_change, checksum_fold, checksum_update, checksum_update_udp,
)
from fastpath.packet.encapsulate cimport (
    ENCAPSULATION_SIZE_MAX, encapsulate as c_encapsulate, encapsulation_size,
    encapsulation_spread_source,
)
from fastpath.packet.flow cimport (
    REWRITE_ENCAPSULATE, REWRITE_MAC, REWRITE_NAT, flow_key_t, rewrite_t,
)
from fastpath.packet.flow_states cimport flow_t
from fastpath.packet.flows cimport (
    flows_add, flows_find, flows_free, flows_hash, flows_init, flows_t,
)
from fastpath.packet.parse cimport PARSE_COUNT, PARSE_ECHO, PARSE_FLOW, packet_parse, packet_t
from fastpath.packet.rewrite cimport (
    UNWRITTEN_COUNT as _UNWRITTEN_COUNT, WRITTEN, rewrite_finish_checksum, rewrite_fits,
    rewrite_nat_init, rewrite_packet,
)
from fastpath.packet.segment cimport segment_count, segment_write
from fastpath.sys_linux cimport htons, ntohs

VERDICT_COUNT, UNWRITTEN_COUNT = PARSE_COUNT, _UNWRITTEN_COUNT
MAC, NAT, ENCAPSULATE = REWRITE_MAC, REWRITE_NAT, REWRITE_ENCAPSULATE


cdef enum:
    EDGE_SIZE = 1 << 17         # longer than every frame
    HEADROOM = ENCAPSULATION_SIZE_MAX
    CANARY = 0xa5

cdef uint8_t *_edge = NULL


cdef uint8_t *_at_the_edge(bytes frame) except NULL:
    """A copy between bytes that must stay and memory that nobody may touch, good until the next."""
    global _edge
    cdef size_t size = len(frame)
    if size + 2 * HEADROOM > EDGE_SIZE:
        raise ValueError(f"{size} bytes, {EDGE_SIZE - 2 * HEADROOM} at most")
    if _edge == NULL:
        _edge = <uint8_t *>mmap(NULL, 2 * EDGE_SIZE, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if <void *>_edge == MAP_FAILED or mprotect(_edge + EDGE_SIZE, EDGE_SIZE, PROT_NONE) != 0:
            raise MemoryError
    cdef uint8_t *at = _edge + EDGE_SIZE - size
    memset(at - 2 * HEADROOM, CANARY, 2 * HEADROOM)
    memcpy(at, <const uint8_t *>frame, size)
    return at


cdef bytes _taken(const uint8_t *frame, uint32_t size, uint32_t headroom):
    """The frame with what was put before it; nothing further before may have changed."""
    cdef const uint8_t *at = frame - HEADROOM - headroom
    while at < frame - headroom:
        if at[0] != CANARY:
            raise AssertionError("written before the frame")
        at += 1
    return (frame - headroom)[:size + headroom]


cdef packet_t _parsed(const uint8_t *frame, uint32_t size):
    cdef packet_t packet
    packet_parse(frame, size, &packet)
    return packet


cdef object _key(const flow_key_t *key):
    return (
        key.source[:16], ntohs(key.source_port), key.destination[:16], ntohs(key.destination_port),
        key.protocol,
    )


def parse(frame: bytes) -> tuple:
    """Verdict, and of each field its value."""
    cdef packet_t packet = _parsed(_at_the_edge(frame), len(frame))
    for spare in packet.key.spare:
        if spare != 0:
            raise AssertionError("a spare byte is set")
    return packet.verdict, {
        "key": _key(&packet.key),
        "end": packet.end,
        "l3": packet.l3,
        "l4": packet.l4,
        "payload": packet.payload,
        "quoted_l3": packet.quoted_l3,
        "quoted_l4": packet.quoted_l4,
        "quoted_end": packet.quoted_end,
        "v6": packet.v6,
        "protocol": packet.protocol,
        "ttl": packet.ttl,
        "tcp_flags": packet.tcp_flags,
        "fragment": packet.fragment,
        "fragment_id": packet.fragment_id,
        "fragment_protocol": packet.fragment_protocol,
    }


cdef rewrite_t _rewrite(dict what):
    """From `how`, `v6`, MACs, addresses of 16 bytes, ports and `mtu`; what is not there is 0."""
    cdef rewrite_t rewrite
    cdef bytes text
    memset(&rewrite, 0, sizeof(rewrite))
    rewrite.how = what["how"]
    rewrite.v6 = what.get("v6", 0)
    rewrite.mtu = what.get("mtu", 1500)
    for name in ("source", "destination", "source_mac", "destination_mac"):
        text = what.get(name, b"")
        if name == "source":
            memcpy(rewrite.source, <const uint8_t *>text, len(text))
        elif name == "destination":
            memcpy(rewrite.destination, <const uint8_t *>text, len(text))
        elif name == "source_mac":
            memcpy(rewrite.source_mac, <const uint8_t *>text, len(text))
        else:
            memcpy(rewrite.destination_mac, <const uint8_t *>text, len(text))
    rewrite.source_port = htons(what.get("source_port", 0))
    rewrite.destination_port = htons(what.get("destination_port", 0))
    return rewrite


def rewrite(frame: bytes, what: dict, partial: bool = False, key: object = None) -> tuple:
    """What became of it, and the frame then. `key`: another frame, whose flow this one is of."""
    cdef rewrite_t rewrite = _rewrite(what)
    cdef packet_t of_flow
    cdef packet_t packet
    cdef uint8_t *at
    cdef bytes other = frame if key is None else key
    of_flow = _parsed(_at_the_edge(other), len(other))
    at = _at_the_edge(frame)
    packet = _parsed(at, len(frame))
    if rewrite.how == REWRITE_NAT:
        rewrite_nat_init(&rewrite, &of_flow.key)
    result = rewrite_packet(at, &packet, &rewrite, partial)
    return result, _taken(at, len(frame), 0)


def finish_checksum(frame: bytes) -> bytes:
    cdef uint8_t *at = _at_the_edge(frame)
    cdef packet_t packet = _parsed(at, len(frame))
    rewrite_finish_checksum(at, &packet)
    return _taken(at, len(frame), 0)


def fits(frame: bytes, mtu: int, segment_size: int = 0) -> bool:
    cdef packet_t packet = _parsed(_at_the_edge(frame), len(frame))
    cdef rewrite_t rewrite = _rewrite({"how": MAC, "mtu": mtu})
    return rewrite_fits(&packet, &rewrite, segment_size)


def encapsulate(frame: bytes, what: dict, spread: bool = False) -> tuple:
    """What became of it, and the frame then. `spread`: with the source that the flow chooses."""
    cdef rewrite_t rewrite = _rewrite(what)
    cdef uint8_t *at = _at_the_edge(frame)
    cdef packet_t packet = _parsed(at, len(frame))
    if spread:
        encapsulation_spread_source(&rewrite, &packet.key)
    result = c_encapsulate(at, &packet, &rewrite)
    if result != 0:
        return result, _taken(at, len(frame), 0)
    return result, _taken(at, packet.end, encapsulation_size(&rewrite))


def segments(frame: bytes, segment_size: int) -> list:
    """The frames that the merged one is taken apart to."""
    cdef uint8_t *at = _at_the_edge(frame)
    cdef packet_t packet = _parsed(at, len(frame))
    cdef uint32_t room = packet.payload + segment_size
    cdef uint32_t number, size
    cdef uint8_t *out = <uint8_t *>malloc(room + 1)
    if out == NULL:
        raise MemoryError
    result = []
    try:
        for number in range(segment_count(&packet, segment_size)):
            out[room] = CANARY
            size = segment_write(at, &packet, segment_size, number, out)
            if size > room or out[room] != CANARY:
                raise AssertionError("written past the room")
            result.append(out[:size])
    finally:
        free(out)
    return result


def echo_reply(frame: bytes) -> bytes:
    cdef uint8_t *at = _at_the_edge(frame)
    cdef packet_t packet = _parsed(at, len(frame))
    if packet.verdict != PARSE_ECHO:
        raise ValueError("no echo request")
    answer_echo(at, &packet)
    return _taken(at, packet.end, 0)


cdef bytes _answer(const uint8_t *answer, uint32_t size):
    if any(byte != CANARY for byte in answer[size:ANSWER_SIZE_MAX]):
        raise AssertionError("written behind the answer")
    return answer[:size]


def too_big(frame: bytes, mtu: int) -> bytes:
    """Empty: there is no answer to that frame."""
    cdef uint8_t answer[ANSWER_SIZE_MAX]
    cdef uint8_t *at = _at_the_edge(frame)
    cdef packet_t packet = _parsed(at, len(frame))
    memset(answer, CANARY, sizeof(answer))
    return _answer(answer, answer_too_big(at, &packet, mtu, answer))


def expired(frame: bytes) -> bytes:
    """Empty: there is no answer to that frame."""
    cdef uint8_t answer[ANSWER_SIZE_MAX]
    cdef uint8_t *at = _at_the_edge(frame)
    cdef packet_t packet = _parsed(at, len(frame))
    memset(answer, CANARY, sizeof(answer))
    return _answer(answer, answer_expired(at, &packet, answer))


def error(frame: bytes, kind: int, code: int, rest: int, quoted_max: int) -> bytes:
    cdef uint8_t answer[ANSWER_SIZE_MAX]
    cdef uint8_t *at = _at_the_edge(frame)
    cdef packet_t packet = _parsed(at, len(frame))
    memset(answer, CANARY, sizeof(answer))
    return _answer(answer, answer_error(at, &packet, kind, code, rest, quoted_max, answer))


def checksum_sum(data: bytes, start: int = 0) -> bytes:
    """The folded sum as it would stand in a packet; `start`: a sum that it goes on from."""
    cdef uint16_t word = checksum_fold(checksum_add(start, _at_the_edge(data), len(data)))
    return (<uint8_t *>&word)[:2]


def checksum_updated(checksum: bytes, old: bytes, new: bytes, udp: bool = False) -> bytes:
    """The checksum over what had `old` where it now has `new`, of the same even size."""
    cdef uint16_t word = 0
    cdef uint16_t delta = checksum_fold(
        checksum_change(0, <const uint8_t *>old, <const uint8_t *>new, len(old))
    )
    memcpy(&word, <const uint8_t *>checksum, 2)
    word = checksum_update_udp(word, delta) if udp else checksum_update(word, delta)
    return (<uint8_t *>&word)[:2]


cdef enum:
    ROOM = 256                  # for each of the measured frames, headroom before it

# What a packet goes through, step by step.
STEPS = ("copy", "parse", "hash", "lookup", "rewrite")


cdef struct measured_t:
    flows_t flows
    uint8_t *kept               # n times ROOM bytes
    uint8_t *work               # likewise: what is rewritten, and restored before each time
    uint32_t *sizes
    uint32_t n
    uint32_t steps              # so many of STEPS
    uint64_t found


cdef void _forward(measured_t *self, uint32_t number) noexcept nogil:
    """One packet."""
    cdef uint8_t *frame = self.work + number * ROOM + HEADROOM
    cdef uint32_t size = self.sizes[number]
    cdef uint64_t hash
    cdef packet_t packet
    cdef flow_t *flow
    cdef int way = 0
    memcpy(frame, self.kept + number * ROOM + HEADROOM, size)
    if self.steps == 1 or packet_parse(frame, size, &packet) != PARSE_FLOW or self.steps == 2:
        return
    hash = flows_hash(&self.flows, &packet.key)
    if self.steps == 3:
        self.found += hash & 1
        return
    flow = flows_find(&self.flows, &packet.key, hash, &way)
    if flow == NULL or self.steps == 4:
        self.found += flow != NULL
        return
    if flow.ways[way].rewrite.how == REWRITE_ENCAPSULATE:
        self.found += c_encapsulate(frame, &packet, &flow.ways[way].rewrite) == WRITTEN
    else:
        self.found += rewrite_packet(frame, &packet, &flow.ways[way].rewrite, False) == WRITTEN


cdef object _put_in(measured_t *self, uint32_t number, bytes frame, dict what):
    """Keep the frame, and a flow that it is of."""
    cdef uint8_t *at = self.kept + number * ROOM + HEADROOM
    cdef packet_t packet
    cdef flow_t *flow = NULL
    if len(frame) > ROOM - HEADROOM:
        raise ValueError(f"{len(frame)} bytes, {ROOM - HEADROOM} at most")
    memcpy(at, <const uint8_t *>frame, len(frame))
    self.sizes[number] = len(frame)
    if packet_parse(at, len(frame), &packet) != PARSE_FLOW:
        raise ValueError("no frame of a flow")
    hash = flows_hash(&self.flows, &packet.key)
    if flows_add(&self.flows, &packet.key, hash, NULL, 0, 0, 1, &flow) != FP_OK:
        raise ValueError("two frames of one flow")
    flow.ways[0].rewrite = _rewrite(what)
    if flow.ways[0].rewrite.how == REWRITE_NAT:
        rewrite_nat_init(&flow.ways[0].rewrite, &packet.key)


def nanoseconds(frames: list, what: dict, rounds: int) -> dict:
    """CPU time of a packet up to each step; the frames, each of its own flow, take turns."""
    cdef measured_t measured
    cdef uint64_t[2] hash_key
    cdef uint64_t began
    cdef uint32_t _round, i
    cdef uint32_t n_rounds = rounds
    cdef uint32_t step
    result = {}
    memset(&measured, 0, sizeof(measured))
    hash_key[0], hash_key[1] = 1, 2
    measured.n = len(frames)
    measured.kept = <uint8_t *>malloc(measured.n * ROOM)
    measured.work = <uint8_t *>malloc(measured.n * ROOM)
    measured.sizes = <uint32_t *>malloc(measured.n * sizeof(uint32_t))
    try:
        if flows_init(&measured.flows, measured.n, measured.n, hash_key) != FP_OK:
            raise MemoryError
        for i, frame in enumerate(frames):
            _put_in(&measured, i, frame, what)
        for step, name in enumerate(STEPS):
            measured.steps = step + 1
            measured.found = 0
            with nogil:
                began = _now_ns()
                for _round in range(n_rounds):
                    for i in range(measured.n):
                        _forward(&measured, i)
                began = _now_ns() - began
            result[name] = <double>began / (n_rounds * measured.n)
        if measured.found != n_rounds * measured.n:
            raise AssertionError("not every packet was rewritten")
    finally:
        flows_free(&measured.flows)
        free(measured.kept)
        free(measured.work)
        free(measured.sizes)
    return result


cdef uint64_t _now_ns() noexcept nogil:
    """Of CPU time."""
    cdef timespec now
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now)
    return <uint64_t>now.tv_sec * 1000000000 + <uint64_t>now.tv_nsec
