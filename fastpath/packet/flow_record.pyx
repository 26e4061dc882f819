"""What one node tells another about a NAT flow."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from fastpath.abi cimport FP_BAD, FP_OK, fp_static_assert
from fastpath.packet.flow_states cimport FLOW_DONE, FLOW_ESTABLISHED, FLOW_STATES, FLOW_STREAM
from fastpath.packet.headers cimport (
    PROTO_TCP, PROTO_UDP, is_mapped, is_no_host, load16, load_be32, store16, store_be32,
)


cdef enum:
    _CLIENT = 0
    _BACKEND = 16
    _SILENT = 24
    _CLIENT_PORT = 28
    _VIP_PORT = 30
    _NAT_PORT = 32
    _MAC = 34
    _PROTOCOL = 40
    _STATE = 41
    _FINS = 42
    _SPARE = 43
    _FIRST_STATE = 1            # FLOW_DONE as it is written
    _BOTH_FINS = 3
    _GROUP_BIT = 1              # of a MAC's first byte


fp_static_assert(_SPARE + 1 == RECORD_SIZE)
fp_static_assert(FLOW_STREAM - FLOW_DONE == 3)


cdef void flow_record_write(const flow_record_t *self, uint8_t *data) noexcept nogil:
    memcpy(data + _CLIENT, self.key.source, 16)
    store_be32(data + _BACKEND, <uint32_t>(self.backend >> 32))
    store_be32(data + _BACKEND + 4, <uint32_t>self.backend)
    store_be32(data + _SILENT, self.silent_ms)
    store16(data + _CLIENT_PORT, self.key.source_port)
    store16(data + _VIP_PORT, self.key.destination_port)
    store16(data + _NAT_PORT, self.nat_port)
    memcpy(data + _MAC, self.client_mac, 6)
    data[_PROTOCOL] = self.key.protocol
    data[_STATE] = self.state - <uint8_t>FLOW_DONE + <uint8_t>_FIRST_STATE
    data[_FINS] = self.fins
    data[_SPARE] = 0


cdef bint _is_client(const uint8_t *ip, const uint8_t *vip) noexcept nogil:
    """Whether packets from there can come to the VIP."""
    if is_mapped(ip):
        return is_mapped(vip) and not is_no_host(ip + 12, False) and memcmp(ip, vip, 16) != 0
    return not is_mapped(vip) and not is_no_host(ip, True) and memcmp(ip, vip, 16) != 0


cdef bint _is_a_hosts(const uint8_t *mac) noexcept nogil:
    cdef uint8_t none[6]
    memset(none, 0, 6)
    return mac[0] & _GROUP_BIT == 0 and memcmp(mac, none, 6) != 0


cdef bint _states_agree(const flow_record_t *self) noexcept nogil:
    """Whether the protocol has that state, and the state those FINs."""
    if self.key.protocol == PROTO_UDP:
        return self.state == FLOW_STREAM and self.fins == 0
    if self.key.protocol != PROTO_TCP or not FLOW_DONE <= self.state < FLOW_STREAM:
        return False
    if self.state == FLOW_ESTABLISHED:
        return self.fins == 0
    return self.fins == _BOTH_FINS if self.state == FLOW_DONE else 0 < self.fins < _BOTH_FINS


cdef int flow_record_read(
    flow_record_t *self, const uint8_t *vip, const uint8_t *data
) noexcept nogil:
    memset(self, 0, sizeof(flow_record_t))
    memcpy(self.key.source, data + _CLIENT, 16)
    memcpy(self.key.destination, vip, 16)
    self.key.source_port = load16(data + _CLIENT_PORT)
    self.key.destination_port = load16(data + _VIP_PORT)
    self.key.protocol = data[_PROTOCOL]
    self.backend = <uint64_t>load_be32(data + _BACKEND) << 32 | load_be32(data + _BACKEND + 4)
    self.silent_ms = load_be32(data + _SILENT)
    self.nat_port = load16(data + _NAT_PORT)
    self.fins = data[_FINS]
    memcpy(self.client_mac, data + _MAC, 6)
    if not _FIRST_STATE <= data[_STATE] < _FIRST_STATE + FLOW_STATES - FLOW_DONE:
        return FP_BAD
    self.state = data[_STATE] - <uint8_t>_FIRST_STATE + <uint8_t>FLOW_DONE
    if (
        data[_SPARE] != 0
        or not _states_agree(self)
        or not _is_client(self.key.source, vip)
        or not _is_a_hosts(self.client_mac)
        or 0 in (self.key.source_port, self.key.destination_port, self.nat_port)
    ):
        return FP_BAD
    return FP_OK
