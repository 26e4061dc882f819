"""Maglev tables for tables of services."""

from libc.stdint cimport uint16_t


cdef class Maglev:
    cdef uint16_t *entries      # MAGLEV_SIZE; owned
