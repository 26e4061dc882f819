"""Python's options of a gateway (fastpath.options) -> options_t."""

from libc.stdlib cimport calloc, free

from fastpath.abi cimport range_t
from fastpath.table_parts cimport array_new, ranges_put

from fastpath.options import UNDERSCORES
from fastpath.prefixes import merged


cdef class OptionTable:
    """Owns one options_t and what it points to."""

    def __cinit__(self, wanted):
        self.c = <options_t *>calloc(1, sizeof(options_t))
        if self.c == NULL:
            raise MemoryError
        ranges_put(
            &self.c.trusted, <range_t *>array_new(len(wanted.trusted), sizeof(range_t)),
            merged(wanted.trusted),
        )
        self.c.underscores = UNDERSCORES.index(wanted.underscores)
        self.c.head_size_max = wanted.head_size
        self.c.fields_max = wanted.fields
        self.c.target_size_max = wanted.target_size
        self.c.body_size_max = wanted.body_size
        self.c.connections_max = wanted.connections
        self.c.connections_per_source = wanted.connections_per_source
        self.c.logs = bool(wanted.logs)

    def __dealloc__(self):
        if self.c != NULL:
            free(<void *>self.c.trusted.ranges)
            free(self.c)
