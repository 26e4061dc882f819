"""Pipes to splice streams through: bytes that the kernel keeps for us, without a copy to us."""

from fastpath.abi cimport fp_assert
from fastpath.sys_linux cimport (
    F_GETPIPE_SZ, F_SETPIPE_SZ, O_CLOEXEC, O_NONBLOCK, close, fcntl, pipe2,
)


cdef void pipes_allow(pipes_t *self, uint32_t n_max) noexcept nogil:
    self.n_max = min(n_max, <uint32_t>PIPES_MAX)


cdef bint _open(pipe_t *pipe) noexcept nogil:
    """Make one; False: there is none of a useful size."""
    cdef int ends[2]
    cdef int size
    if pipe2(ends, O_NONBLOCK | O_CLOEXEC) != 0:
        return False
    fcntl(ends[1], F_SETPIPE_SZ, <int>PIPE_SIZE)        # what it grants is what counts
    size = fcntl(ends[1], F_GETPIPE_SZ)
    if size < PIPE_SIZE_MIN:
        close(ends[0])
        close(ends[1])
        return False
    pipe.read_end = ends[0]
    pipe.write_end = ends[1]
    pipe.size = <uint32_t>size
    pipe.held = 0
    return True


cdef void _close(pipe_t *pipe) noexcept nogil:
    close(pipe.read_end)
    close(pipe.write_end)
    pipe.size = 0


cdef pipe_t *_unmade(pipes_t *self) noexcept nogil:
    """A place without a pipe; there must be one."""
    cdef uint32_t i = 0
    while self.pipes[i].size != 0:
        i += 1
    return &self.pipes[i]


cdef pipe_t *pipe_get(pipes_t *self) noexcept nogil:
    cdef pipe_t *pipe
    if self.n_free > 0:
        self.n_free -= 1
        return self.free[self.n_free]
    if self.n_made >= self.n_max:
        return NULL
    pipe = _unmade(self)
    if not _open(pipe):
        self.n_max = self.n_made        # until the next pipes_allow, ask no more
        return NULL
    self.n_made += 1
    return pipe


cdef void pipe_put(pipes_t *self, pipe_t *pipe) noexcept nogil:
    if pipe.held == 0 and self.n_made <= self.n_max:
        self.free[self.n_free] = pipe
        self.n_free += 1
        return
    _close(pipe)
    self.n_made -= 1


cdef void pipes_free(pipes_t *self) noexcept nogil:
    fp_assert(self.n_free == self.n_made)
    while self.n_free > 0:
        self.n_free -= 1
        self.n_made -= 1
        _close(self.free[self.n_free])
