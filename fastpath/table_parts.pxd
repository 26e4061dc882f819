"""What compiled tables are made of: arrays, ranges of addresses, Maglev tables."""

from libc.stdint cimport uint16_t, uint64_t

from fastpath.abi cimport prefixes_t, range_t


cdef class Maglev:
    cdef uint16_t *entries      # MAGLEV_SIZE; owned


# A zeroed array, of one element at least.
cdef void *array_new(size_t n, size_t size) except NULL
# Have `prefixes` be these ranges (fastpath.prefixes.merged), written from `where` on; returns where
# the next ones go.
cdef range_t *ranges_put(prefixes_t *prefixes, range_t *where, list wanted) except NULL
# The entries of the Maglev table of `key`: that of the tables `before`, if they had it. It lives as
# long as `tables`. NULL: the key is empty.
cdef const uint16_t *maglev_entries(dict tables, dict before, tuple key) except? NULL
# What a sticky cookie says for a backend; never 0.
cdef uint64_t token_of(bytes hash_key, str service, str backend) except 0
