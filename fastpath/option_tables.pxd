"""Python's options of a gateway -> options_t."""

from fastpath.http.options cimport options_t


cdef class OptionTable:
    """Owns one options_t and what it points to."""

    cdef options_t *c
