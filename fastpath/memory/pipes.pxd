"""Pipes to splice streams through: bytes that the kernel keeps for us, without a copy to us.

A pool, for the kernel grants one user few large pipes: beyond fs.pipe-user-pages-soft it hands out
tiny ones (pipe(7)), and then there are no more. A direction of a stream has one only while there
are bytes in it. Made when first needed, kept for the next.
"""

from libc.stdint cimport uint32_t


cdef enum:
    PIPES_MAX = 32              # of one worker; two descriptors each, as limits.py knows
    PIPE_SIZE = 262144          # asked for; 64 pages of 4 KiB
    PIPE_SIZE_MIN = 65536       # smaller ones are slower than copying


cdef struct pipe_t:
    int read_end                # owned by the pool, as the other
    int write_end
    uint32_t size               # what the kernel granted
    uint32_t held               # bytes in it now


cdef struct pipes_t:            # zeroed: may have none
    pipe_t pipes[PIPES_MAX]
    pipe_t *free[PIPES_MAX]     # those that nobody has; the first n_free
    uint32_t n_free
    uint32_t n_made
    uint32_t n_max


# Allow up to `n_max` of them, PIPES_MAX at most. Those that are there stay.
cdef void pipes_allow(pipes_t *self, uint32_t n_max) noexcept nogil
# An empty pipe, or NULL: none is left, or the kernel gives no more large enough.
cdef pipe_t *pipe_get(pipes_t *self) noexcept nogil
# Give one back; one that still holds bytes is closed.
cdef void pipe_put(pipes_t *self, pipe_t *pipe) noexcept nogil
# Close all; none may be out.
cdef void pipes_free(pipes_t *self) noexcept nogil
