"""What compiled tables are made of: arrays, ranges of addresses, Maglev tables."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from fastpath.hashing.bits cimport load_le64
from fastpath.hashing.maglev cimport MAGLEV_SIZE, maglev_build, maglev_node_t
from fastpath.hashing.siphash cimport siphash24
from fastpath.hashing.xxhash cimport xxh64

_LOW = (1 << 64) - 1


cdef class Maglev:
    """Owns one Maglev table."""

    def __cinit__(self, tuple key):
        """`key`: (name, weight, index) of each usable backend, in the order of their names."""
        cdef maglev_node_t *nodes
        cdef Py_ssize_t i, n = len(key)
        cdef bytes name
        cdef int result
        self.entries = <uint16_t *>calloc(MAGLEV_SIZE, sizeof(uint16_t))
        nodes = <maglev_node_t *>calloc(n, sizeof(maglev_node_t))
        if self.entries == NULL or nodes == NULL:
            free(nodes)
            raise MemoryError
        for i in range(n):
            name = key[i][0].encode()
            nodes[i].hash0 = xxh64(<const uint8_t *>name, len(name), 0)
            nodes[i].hash1 = xxh64(<const uint8_t *>name, len(name), 1)
            nodes[i].weight = key[i][1]
            nodes[i].index = key[i][2]
        with nogil:
            result = maglev_build(nodes, <uint32_t>n, self.entries, MAGLEV_SIZE)
        free(nodes)
        if result != 0:
            raise MemoryError

    def __dealloc__(self):
        free(self.entries)


cdef void *array_new(size_t n, size_t size) except NULL:
    cdef void *memory = calloc(n if n > 0 else 1, size)
    if memory == NULL:
        raise MemoryError
    return memory


cdef range_t *ranges_put(prefixes_t *prefixes, range_t *where, list wanted) except NULL:
    prefixes.ranges = where
    for first, last in wanted:
        where.first_high = first >> 64
        where.first_low = first & _LOW
        where.last_high = last >> 64
        where.last_low = last & _LOW
        where += 1
        prefixes.n += 1
    return where


cdef const uint16_t *maglev_entries(dict tables, dict before, tuple key) except? NULL:
    cdef Maglev maglev
    if not key:
        return NULL
    maglev = tables.get(key) or before.get(key) or Maglev(key)
    tables[key] = maglev
    return maglev.entries


cdef uint64_t token_of(bytes hash_key, str service, str backend) except 0:
    """What a sticky cookie says for a backend: the same on every node, telling nobody its name."""
    cdef const uint8_t *key = hash_key
    cdef bytes name = f"sticky cookie\0{service}\0{backend}".encode()
    return siphash24(load_le64(key), load_le64(key + 8), name, len(name)) or 1
