"""Python's way into errors about outer headers, for the tests; built with PIAGENT_PROBE=1 only."""

from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from fastpath.abi cimport FP_OK
from fastpath.packet.flow cimport flow_key_t
from fastpath.packet.parse cimport PARSE_ICMP, packet_parse, packet_t
from fastpath.packet.tunnel_error cimport tunnel_error_read, tunnel_error_t


def read(bytes frame):
    """(key, outer source, outer destination, MTU); None: it is no such error.

    The frame is where AddressSanitizer sees its end.
    """
    cdef tunnel_error_t error
    cdef packet_t packet
    cdef uint8_t *copy = <uint8_t *>malloc(max(len(frame), 1))
    if copy == NULL:
        raise MemoryError
    try:
        memcpy(copy, <const uint8_t *>frame, len(frame))
        if (
            packet_parse(copy, len(frame), &packet) != PARSE_ICMP
            or tunnel_error_read(&error, copy, &packet) != FP_OK
        ):
            return None
    finally:
        free(copy)
    return (
        (<const uint8_t *>&error.key)[:sizeof(flow_key_t)],
        error.source[:16],
        error.destination[:16],
        error.mtu,
    )
