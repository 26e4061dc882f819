"""Python's tables -> the C tables that the workers read."""

from fastpath.abi cimport snapshot_t


cdef class Snapshot:
    """Owns one snapshot_t; free it when no worker can have it any more, by letting go of it."""

    cdef snapshot_t *c
    cdef dict maglev            # key -> Maglev: the tables that `c` points to
    cdef list texts             # bytes that `c` points to


cdef class Maglev:
    """Owns one Maglev table."""

    cdef unsigned short *entries
