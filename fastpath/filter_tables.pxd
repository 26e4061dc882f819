"""Python's filters -> filters_t."""

from fastpath.http.filters.table cimport filters_t


cdef class FilterTable:
    """Owns one filters_t and all that it points to."""

    cdef filters_t *c
    cdef list kept              # bytes and arrays that `c` points to
