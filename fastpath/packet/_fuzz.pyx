"""Frames of every kind, mutated, through all of the packet code; built with PIAGENT_PROBE=1 only.

There is no model: what must hold of any frame is looked at, with sums that are added up here anew.
Each frame ends where memory does, so a read or a write past its end is the end of the process.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
from posix.mman cimport (
    MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_NONE, PROT_READ, PROT_WRITE, mmap, mprotect,
    munmap,
)

from fastpath.memory._fuzz cimport Fuzz
from fastpath.packet.answer cimport ANSWER_SIZE_MAX, answer_echo, answer_expired, answer_too_big
from fastpath.packet.encapsulate cimport encapsulate, encapsulation_size
from fastpath.packet.flow cimport REWRITE_ENCAPSULATE, REWRITE_MAC, flow_key_t, rewrite_t
from fastpath.packet.parse cimport (
    FRAGMENT_NONE, PARSE_COUNT, PARSE_ECHO, PARSE_FLOW, PARSE_FRAGMENT, PARSE_ICMP,
    PARSE_ICMP_ERROR, PARSE_OTHER, packet_parse, packet_t,
)
from fastpath.packet.rewrite cimport UNWRITTEN_EXPIRED, WRITTEN, rewrite_nat_init, rewrite_packet
from fastpath.packet.segment cimport segment_count, segment_write

from fastpath.packet.verdicts import VERDICTS


cdef enum:
    PAGE = 1 << 16              # no page is larger
    FRAME_SIZE_MAX = 600
    HEADROOM = 40
    ICMP = 1
    TCP = 6
    UDP = 17
    ICMP6 = 58
    CANARY = 0xa5
    CANARIES = 64               # before a frame and its headroom


cdef struct ends_t:             # addresses as in flow_key_t
    uint8_t source[16]
    uint8_t destination[16]
    uint8_t v6


cdef uint32_t _residue(const uint8_t *data, uint32_t size) noexcept nogil:
    """The sum of the words modulo 2^16 - 1: 0 of what is valid."""
    cdef uint32_t sum = 0
    cdef uint32_t i
    for i in range(size):
        sum += <uint32_t>data[i] << (0 if i & 1 else 8)
    return sum % 65535


cdef void _put16(uint8_t *at, uint32_t number) noexcept nogil:
    at[0] = <uint8_t>(number >> 8)
    at[1] = <uint8_t>number


cdef void _repair(uint8_t *header, uint32_t size) noexcept nogil:
    """Give an IPv4 header a valid checksum, when it is there."""
    cdef uint32_t own = (header[0] & 15) * 4
    if own < 20 or own > size:
        return
    _put16(header + 10, 0)
    _put16(header + 10, 65535 - _residue(header, own))


cdef class PacketFuzz(Fuzz):
    """Build a frame, change it, and do with it what a forwarder may."""

    cdef uint32_t changes_max   # of bytes in a frame
    cdef uint8_t built[1024]    # [at:end] is there; grows towards the beginning
    cdef uint32_t at
    cdef uint32_t end
    cdef uint32_t n_tags
    cdef uint8_t *memory        # PAGE bytes and a page that nobody may touch; owned
    cdef uint8_t *frame         # at the end of the first one
    cdef uint32_t size
    cdef uint8_t before[FRAME_SIZE_MAX]     # the frame as it was parsed
    cdef packet_t packet
    cdef uint64_t n_of[PARSE_COUNT]         # frames by verdict

    def __cinit__(self, *, seed, changes_max):
        self.changes_max = changes_max
        self.memory = <uint8_t *>mmap(
            NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0
        )
        if <void *>self.memory == MAP_FAILED:
            self.memory = NULL
            raise MemoryError
        if mprotect(self.memory + PAGE, PAGE, PROT_NONE) != 0:
            raise MemoryError

    def __dealloc__(self):
        if self.memory != NULL:
            munmap(self.memory, 2 * PAGE)

    def verdicts(self) -> dict:
        """How many frames had which verdict."""
        return {name: self.n_of[i] for i, name in enumerate(VERDICTS)}

    cdef void step(self) noexcept nogil:
        cdef uint32_t expected = self._build()
        cdef bint is_sound = self._change()
        cdef uint32_t verdict
        memset(self.frame - HEADROOM - CANARIES, CANARY, HEADROOM + CANARIES)
        memcpy(self.before, self.frame, self.size)
        memset(&self.packet, CANARY, sizeof(packet_t))
        verdict = <uint32_t>packet_parse(self.frame, self.size, &self.packet)
        self.expect(self._is_same(0, self.size), b"parsing changes nothing")
        self.expect(verdict < PARSE_COUNT, b"there is such a verdict")
        self.expect(not is_sound or verdict == expected, b"what is sound is understood")
        if self.difference != NULL:
            return
        self.n_of[verdict] += 1
        if verdict <= PARSE_ECHO:
            self._look_at_offsets()
            self._do(verdict)
        else:
            self._answer(self.roll(2))

    cdef void _do(self, uint32_t verdict) noexcept nogil:
        cdef uint32_t what = self.roll(8)
        if verdict == PARSE_ECHO:
            self._echo()
        elif what < 2:
            self._encapsulate()
        elif what == 2:
            self._answer(self.roll(2))
        elif what == 3:
            self._mac()
        elif what == 4 and verdict == PARSE_FLOW and self.packet.fragment == FRAGMENT_NONE:
            self._take_apart(1 + self.roll(64))
        else:
            self._nat()

    # Frames: from their end to their beginning.

    cdef uint8_t *_more(self, uint32_t size) noexcept nogil:
        """Random bytes before what there is."""
        cdef uint32_t i
        self.at -= size
        for i in range(size):
            self.built[self.at + i] = <uint8_t>self.roll(256)
        return self.built + self.at

    cdef void _choose(self, ends_t *ends, bint v6) noexcept nogil:
        """Two hosts that are never the same."""
        cdef uint8_t *address = ends.source
        cdef uint32_t i, j
        ends.v6 = v6
        for i in range(2):
            if i == 1:
                address = ends.destination
            for j in range(16):
                address[j] = <uint8_t>self.roll(256)
            if v6:
                address[0] = 0x20
            else:
                memset(address, 0, 10)
                memset(address + 10, 0xff, 2)
                address[12] = <uint8_t>(1 + self.roll(126))
            address[15] = <uint8_t>(address[15] & 0xfe | i)

    cdef void _sum_up(self, const ends_t *ends, uint8_t protocol, uint32_t at) noexcept nogil:
        """Set the checksum that is `at` bytes behind the beginning of what there is."""
        cdef uint8_t *data = self.built + self.at
        cdef uint32_t size = self.end - self.at
        cdef uint32_t sum
        _put16(data + at, 0)
        sum = _residue(data, size)
        if protocol != ICMP:    # IPv4 is no case: ::ffff:0:0 sums up to nothing
            sum += _residue(ends.source, 16) + _residue(ends.destination, 16) + size + protocol
        _put16(data + at, 65535 - sum % 65535)

    cdef void _l4(self, const ends_t *ends, uint8_t protocol, bint in_eights) noexcept nogil:
        cdef uint32_t own_size = 8
        cdef uint32_t data_size = self.roll(48)
        cdef uint8_t *header
        if protocol == TCP:
            own_size = 20 + 4 * self.roll(4)
        if in_eights:
            data_size += (8 - (own_size + data_size) % 8) % 8
        header = self._more(own_size + data_size)
        if protocol == TCP:
            header[12] = <uint8_t>(own_size // 4 << 4)
            self._sum_up(ends, protocol, 16)
        elif protocol == UDP:
            _put16(header + 4, own_size + data_size)
            self._sum_up(ends, protocol, 6)
            if self.roll(8) == 0:
                _put16(header + 6, 0)
        else:
            header[0] = 128 if ends.v6 else 8
            header[1] = 0
            self._sum_up(ends, protocol, 2)

    cdef void _ip(self, const ends_t *ends, uint8_t protocol, uint32_t fragment) noexcept nogil:
        """`fragment`: offset and "more" as they are in IPv6."""
        if ends.v6:
            self._ipv6(ends, self._extensions(protocol, fragment))
        else:
            self._ipv4(ends, protocol, fragment >> 3 | (fragment & 1) << 13)

    cdef void _ipv4(self, const ends_t *ends, uint8_t protocol, uint32_t fragment) noexcept nogil:
        cdef uint32_t own_size = 20 + (4 * self.roll(4) if self.roll(4) == 0 else 0)
        cdef uint8_t *header = self._more(own_size)
        memset(header + 20, 1, own_size - 20)
        header[0] = <uint8_t>(0x40 | own_size // 4)
        _put16(header + 2, self.end - self.at)
        _put16(header + 6, fragment | self.roll(2) << 14)
        header[9] = protocol
        memcpy(header + 12, ends.source + 12, 4)
        memcpy(header + 16, ends.destination + 12, 4)
        _repair(header, own_size)

    cdef uint8_t _extensions(self, uint8_t protocol, uint32_t fragment) noexcept nogil:
        """Some, and the fragment header if there is a need; the first one's protocol."""
        cdef uint8_t *header
        cdef uint32_t n = self.roll(4) // 2
        cdef uint32_t words
        if fragment != 0 or self.roll(8) == 0:
            header = self._more(8)
            header[0] = protocol
            _put16(header + 2, fragment)
            protocol = 44
        while n > 0:
            n -= 1
            words = self.roll(2)
            header = self._more(8 + 8 * words)
            header[0] = protocol
            header[1] = <uint8_t>words
            protocol = 60
        return protocol

    cdef void _ipv6(self, const ends_t *ends, uint8_t protocol) noexcept nogil:
        cdef uint32_t size = self.end - self.at
        cdef uint8_t *header = self._more(40)
        header[0] = 0x60 | header[0] & 15
        _put16(header + 4, size)
        header[6] = protocol
        memcpy(header + 8, ends.source, 16)
        memcpy(header + 24, ends.destination, 16)

    cdef void _error(self, const ends_t *ends) noexcept nogil:
        """To the sender of a packet, which it quotes in part or whole."""
        cdef uint8_t protocol = TCP if self.roll(2) else UDP
        cdef uint8_t *message
        cdef uint32_t may_go
        cdef ends_t quoted
        self._choose(&quoted, ends.v6)
        memcpy(quoted.source, ends.destination, 16)
        self._l4(&quoted, protocol, False)
        may_go = self.end - self.at - 8
        self._ip(&quoted, protocol, 0)
        if self.roll(2):
            self.end -= self.roll(may_go + 1)
        message = self._more(8)
        message[0] = <uint8_t>(1 + self.roll(4) if ends.v6 else 11 + self.roll(2))
        if not ends.v6 and self.roll(2):
            message[0] = 3
        _put16(message + 4, 0)
        _put16(message + 6, 1280 + self.roll(300))      # when it is one that has an MTU
        self._sum_up(ends, ICMP6 if ends.v6 else ICMP, 2)

    cdef uint32_t _build(self) noexcept nogil:
        """A sound frame; its verdict."""
        cdef uint32_t kind = self.roll(8)
        cdef uint8_t protocol = TCP if self.roll(2) else UDP
        cdef uint32_t fragment = 0
        cdef uint32_t verdict = PARSE_FLOW
        cdef ends_t ends
        self.at = self.end = sizeof(self.built)
        self._choose(&ends, self.roll(2))
        if kind == 0:
            protocol = ICMP6 if ends.v6 else ICMP
            self._l4(&ends, protocol, False)
            verdict = PARSE_ECHO
        elif kind <= 2:
            protocol = ICMP6 if ends.v6 else ICMP
            self._error(&ends)
            verdict = PARSE_ICMP_ERROR
        elif kind == 3:
            self._more(1 + self.roll(48))
            fragment = 8 * (3 + self.roll(1000))
            verdict = PARSE_FRAGMENT
        else:
            fragment = kind == 4
            self._l4(&ends, protocol, fragment != 0)
        self._ip(&ends, protocol, fragment)
        self._ethernet(ends.v6)
        return verdict

    cdef void _ethernet(self, bint v6) noexcept nogil:
        cdef uint8_t *header
        cdef uint32_t i
        self.n_tags = self.roll(8) % 3 if self.roll(4) == 0 else 0
        header = self._more(14 + 4 * self.n_tags)
        header[0] &= 0xfe
        header[6] &= 0xfe
        for i in range(self.n_tags):
            _put16(header + 12 + 4 * i, 0x88a8 if self.roll(2) else 0x8100)
        _put16(header + 12 + 4 * self.n_tags, 0x86dd if v6 else 0x0800)

    cdef bint _change(self) noexcept nogil:
        """Put the frame where it is parsed, with padding or changed; whether it is still sound."""
        cdef uint32_t n = self.roll(self.changes_max + 1)
        cdef uint32_t padding = self.roll(20) if self.roll(4) == 0 else 0
        cdef uint32_t i, l3
        cdef bint is_sound = n == 0
        self.size = self.end - self.at + padding
        if self.changes_max > 0 and self.roll(8) == 0:
            self.size = self.roll(self.size)
            is_sound = False
        self.frame = self.memory + PAGE - self.size
        memcpy(self.frame, self.built + self.at, min(self.size, self.end - self.at))
        for i in range(self.end - self.at, self.size):
            self.frame[i] = <uint8_t>self.roll(256)
        if self.size == 0:
            return False
        while n > 0:
            n -= 1
            if self.roll(2):
                self.frame[self.roll(self.size)] ^= <uint8_t>(1 << self.roll(8))
            else:
                self.frame[self.roll(self.size)] = <uint8_t>self.roll(256)
        l3 = 14 + 4 * self.n_tags
        # Else few of those that are changed get past the header.
        if not is_sound and self.roll(4) > 0 and self.size >= l3 + 20 and self.frame[l3] >> 4 == 4:
            _repair(self.frame + l3, self.size - l3)
        return is_sound

    # What must hold.

    cdef bint _is_same(self, uint32_t start, uint32_t end) noexcept nogil:
        """Whether that part of the frame is as it came."""
        return start >= end or memcmp(self.before + start, self.frame + start, end - start) == 0

    cdef void _look_before(self, uint32_t headroom) noexcept nogil:
        cdef const uint8_t *at = self.frame - HEADROOM - CANARIES
        while at < self.frame - headroom:
            self.expect(at[0] == CANARY, b"nothing is written before the frame")
            at += 1

    cdef void _look_at_offsets(self) noexcept nogil:
        cdef packet_t *p = &self.packet
        self.expect(14 <= p.l3 <= 22 and p.l3 + 20 <= p.l4, b"headers in their order")
        self.expect(p.l4 <= p.end <= self.size, b"a packet inside its frame")
        self.expect(
            p.key.spare[0] == 0 and p.key.spare[1] == 0 and p.key.spare[2] == 0,
            b"the whole key is set",
        )
        if p.verdict == PARSE_FLOW:
            self.expect(p.l4 + 8 <= p.payload <= p.end, b"a whole TCP or UDP header")
        elif p.verdict == PARSE_ICMP_ERROR:
            self.expect(
                p.l4 + 8 <= p.quoted_l3 and p.quoted_l3 + 20 <= p.quoted_l4
                and p.quoted_l4 + <uint32_t>8 <= p.quoted_end <= p.end,
                b"a quote inside the packet",
            )

    cdef uint32_t _addresses(self, uint32_t l3) noexcept nogil:
        """Their part in the sum of a pseudo-header."""
        if self.packet.v6:
            return _residue(self.frame + l3 + 8, 32)
        return _residue(self.frame + l3 + 12, 8)

    cdef uint32_t _message(self) noexcept nogil:
        """What is off in what IP carries; lengths and protocols, which stay, left out."""
        cdef packet_t *p = &self.packet
        cdef uint32_t sum = _residue(self.frame + p.l4, p.end - p.l4)
        if p.protocol != ICMP:
            sum += self._addresses(p.l3)
        return sum % 65535

    cdef uint32_t _quote(self) noexcept nogil:
        """The same of what an error quotes, its IPv4 header too."""
        cdef packet_t *p = &self.packet
        cdef uint32_t sum = _residue(self.frame + p.quoted_l4, p.quoted_end - p.quoted_l4)
        sum = (sum + self._addresses(p.quoted_l3)) % 65535
        if not p.v6:
            sum += 65536 * _residue(self.frame + p.quoted_l3, p.quoted_l4 - p.quoted_l3)
        return sum

    cdef bint _has_checksum(self, uint32_t l4, uint32_t end, uint8_t protocol) noexcept nogil:
        """Whether that of TCP or UDP is there, and not one of 0 that UDP may have."""
        cdef uint32_t at = l4 + (16 if protocol == TCP else 6)
        return at + 2 <= end and (protocol == TCP or self.before[at] | self.before[at + 1] != 0)

    cdef bint _is_key(self, const flow_key_t *key, const rewrite_t *rewrite) noexcept nogil:
        """Whether it is what was to be written; a later fragment has no ports."""
        return (
            memcmp(key.source, rewrite.source, 16) == 0
            and memcmp(key.destination, rewrite.destination, 16) == 0
            and (self.packet.verdict == PARSE_FRAGMENT or (
                key.source_port == rewrite.source_port
                and key.destination_port == rewrite.destination_port
            ))
        )

    cdef bint _rewritten(self, rewrite_t *rewrite) noexcept nogil:
        """Do it; False: it had come too far, and was left alone."""
        cdef packet_t after
        cdef packet_t *p = &self.packet
        cdef int result = rewrite_packet(self.frame, p, rewrite, False)
        self.expect((result == UNWRITTEN_EXPIRED) == (p.ttl <= 1), b"whose way ends here")
        if result != WRITTEN:
            self.expect(self._is_same(0, self.size), b"what is not sent is left as it was")
            return False
        self.expect(
            packet_parse(self.frame, self.size, &after) == p.verdict, b"the verdict is the same"
        )
        self.expect(after.ttl == p.ttl - 1, b"one hop further")
        self.expect(after.l4 == p.l4 and after.end == p.end, b"headers stay where they are")
        self.expect(self._is_same(12, p.l3), b"tags stay")
        self.expect(self._is_same(p.end, self.size), b"padding stays")
        self.expect(
            memcmp(&after.key, &p.key, sizeof(flow_key_t)) == 0
            if rewrite.how == REWRITE_MAC else self._is_key(&after.key, rewrite),
            b"the flow that was to be",
        )
        self._look_before(0)
        return True

    cdef void _mac(self) noexcept nogil:
        cdef rewrite_t rewrite
        memset(&rewrite, 0, sizeof(rewrite))
        rewrite.how = REWRITE_MAC
        if self._rewritten(&rewrite):
            self.expect(self._is_same(self.packet.l4, self.size), b"what IP carries stays")

    cdef void _nat(self) noexcept nogil:
        """To others; the sums stay as far off as they were."""
        cdef packet_t *p = &self.packet
        cdef uint32_t message = self._message()
        cdef uint32_t quote = self._quote() if p.verdict == PARSE_ICMP_ERROR else 0
        cdef rewrite_t rewrite
        cdef ends_t ends
        memset(&rewrite, 0, sizeof(rewrite))
        self._choose(&ends, p.v6)
        memcpy(rewrite.source, ends.source, 16)
        memcpy(rewrite.destination, ends.destination, 16)
        rewrite.source_port = <uint16_t>self.roll(65536)
        rewrite.destination_port = <uint16_t>self.roll(65536)
        rewrite_nat_init(&rewrite, &p.key)
        if not self._rewritten(&rewrite):
            return
        if p.verdict == PARSE_FRAGMENT:
            self.expect(self._is_same(p.l4, self.size), b"a later fragment has nothing to change")
        elif p.verdict == PARSE_ICMP_ERROR:
            self.expect(self._message() == message, b"as valid as before: ICMP")
            if self._has_checksum(p.quoted_l4, p.quoted_end, p.key.protocol):
                self.expect(self._quote() == quote, b"as valid as before: the quote")
        else:
            self.expect(self._is_same(p.payload, self.size), b"data stay")
            if self._has_checksum(p.l4, p.end, p.protocol):
                self.expect(self._message() == message, b"as valid as before")
            else:
                self.expect(self._is_same(p.l4 + 6, p.l4 + 8), b"no checksum where none was")

    cdef void _encapsulate(self) noexcept nogil:
        cdef packet_t *p = &self.packet
        cdef packet_t after
        cdef rewrite_t rewrite
        cdef ends_t ends
        cdef uint32_t added
        memset(&rewrite, 0, sizeof(rewrite))
        self._choose(&ends, self.roll(2))
        rewrite.how = REWRITE_ENCAPSULATE
        rewrite.v6 = ends.v6
        memcpy(rewrite.source, ends.source, 16)
        memcpy(rewrite.destination, ends.destination, 16)
        added = encapsulation_size(&rewrite)
        self.expect(encapsulate(self.frame, p, &rewrite) == WRITTEN, b"there is room for it")
        self.expect(self._is_same(p.l3, self.size), b"whole inside")
        self.expect(
            packet_parse(self.frame - added, p.end + added, &after) == PARSE_OTHER,
            b"a sound packet outside",
        )
        self.expect(after.end == p.end + added and after.l3 == p.l3, b"of the right length")
        self.expect(self._is_key(&after.key, &rewrite), b"its ends")
        self._look_before(added)

    cdef void _take_apart(self, uint32_t segment_size) noexcept nogil:
        cdef packet_t *p = &self.packet
        cdef packet_t after
        cdef uint8_t out[FRAME_SIZE_MAX + CANARIES]
        cdef uint32_t offset = 0
        cdef uint32_t number, size, sum
        for number in range(segment_count(p, segment_size)):
            memset(out, CANARY, sizeof(out))
            size = segment_write(self.frame, p, segment_size, number, out)
            self.expect(
                out[size] == CANARY and p.payload <= size <= p.payload + segment_size,
                b"a piece no longer than it may be",
            )
            self.expect(packet_parse(out, size, &after) == PARSE_FLOW, b"a sound piece")
            self.expect(memcmp(&after.key, &p.key, sizeof(flow_key_t)) == 0, b"of the same flow")
            self.expect(
                memcmp(out + p.payload, self.before + p.payload + offset, size - p.payload) == 0,
                b"with the data in order",
            )
            offset += size - p.payload
            sum = _residue(out + p.l4, size - p.l4) + self._addresses(p.l3)
            sum += size - p.l4 + p.protocol
            self.expect(
                sum % 65535 == 0 or not self._has_checksum(p.l4, p.end, p.protocol),
                b"with a valid checksum",
            )
        self.expect(offset == p.end - p.payload, b"all of the data")

    cdef void _echo(self) noexcept nogil:
        cdef packet_t *p = &self.packet
        cdef packet_t after
        cdef uint32_t message = self._message()
        answer_echo(self.frame, p)
        self.frame[0] &= 0xfe   # a sender may have said that it is a group
        self.expect(
            packet_parse(self.frame, self.size, &after) == PARSE_ICMP, b"a reply is no request"
        )
        self.expect(
            memcmp(after.key.source, p.key.destination, 16) == 0
            and memcmp(after.key.destination, p.key.source, 16) == 0,
            b"to whom has asked",
        )
        self.expect(self._message() == message, b"as valid as before: echo")
        self.expect(self._is_same(p.l4 + 4, self.size), b"what was sent comes back")
        self._look_before(0)

    cdef void _answer(self, bint is_expired) noexcept nogil:
        """An error to the sender, if it may have one."""
        cdef packet_t *p = &self.packet
        cdef packet_t after
        cdef uint8_t answer[ANSWER_SIZE_MAX + CANARIES]
        cdef uint32_t size, i
        memset(answer, CANARY, sizeof(answer))
        if is_expired:
            size = answer_expired(self.frame, p, answer)
        else:
            size = answer_too_big(self.frame, p, <uint16_t>(1280 + self.roll(9000)), answer)
        self.expect(self._is_same(0, self.size), b"an answer leaves the frame as it was")
        for i in range(size, sizeof(answer)):
            self.expect(answer[i] == CANARY, b"an answer no longer than it says")
        if p.verdict != PARSE_FLOW and p.verdict != PARSE_ECHO:
            self.expect(size == 0, b"no answer where none may be")
            return
        answer[0] &= 0xfe
        self.expect(
            packet_parse(answer, size, &after)
            == (PARSE_ICMP_ERROR if p.verdict == PARSE_FLOW else PARSE_ICMP),
            b"a sound error",
        )
        if p.verdict == PARSE_FLOW:
            self.expect(
                memcmp(after.key.source, p.key.destination, 16) == 0
                and memcmp(after.key.destination, p.key.source, 16) == 0
                and after.key.source_port == p.key.destination_port
                and after.key.destination_port == p.key.source_port,
                b"about the packet",
            )
