"""Python's way into the hashes, for the tests; built with PIAGENT_PROBE=1 only."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from fastpath.hashing.crc32c cimport crc32c as c_crc32c
from fastpath.hashing.maglev cimport MAGLEV_NONE as _MAGLEV_NONE, maglev_build, maglev_node_t
from fastpath.hashing.siphash cimport siphash13 as c_siphash13, siphash24 as c_siphash24
from fastpath.hashing.xxhash cimport xxh64 as c_xxh64

MAGLEV_NONE = _MAGLEV_NONE


def siphash13(key: bytes, data: bytes) -> int:
    k0, k1 = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
    return c_siphash13(k0, k1, <const uint8_t *>data, len(data))


def siphash24(key: bytes, data: bytes) -> int:
    k0, k1 = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
    return c_siphash24(k0, k1, <const uint8_t *>data, len(data))


def xxh64(data: bytes, seed: int) -> int:
    return c_xxh64(<const uint8_t *>data, len(data), seed)


def crc32c(crc: int, data: bytes) -> int:
    return c_crc32c(crc, <const uint8_t *>data, len(data))


def unaligned(data: bytes, key: bytes, seed: int) -> set:
    """The (siphash13, xxh64) of `data` at each of eight alignments."""
    cdef size_t size = len(data)
    cdef uint8_t *buffer = <uint8_t *>malloc(size + 8)
    cdef size_t shift
    k0, k1 = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
    results = set()
    try:
        for shift in range(8):
            memcpy(buffer + shift, <const uint8_t *>data, size)
            results.add((
                c_siphash13(k0, k1, buffer + shift, size),
                c_xxh64(buffer + shift, size, seed),
            ))
    finally:
        free(buffer)
    return results


def maglev(nodes: list, m: int) -> list | int:
    """The table for (hash0, hash1, weight, index) tuples, or the negative code."""
    cdef uint32_t n = len(nodes)
    cdef uint32_t size = m
    cdef maglev_node_t *node = <maglev_node_t *>malloc(
        (n + 1) * sizeof(maglev_node_t))
    cdef uint16_t *table = <uint16_t *>malloc((<size_t>size + 1) * sizeof(uint16_t))
    cdef uint32_t i
    cdef int code
    try:
        for i in range(n):
            node[i].hash0, node[i].hash1, node[i].weight, node[i].index = nodes[i]
        with nogil:
            code = maglev_build(node, n, table, size)
        return code if code < 0 else [table[i] for i in range(size)]
    finally:
        free(node)
        free(table)
