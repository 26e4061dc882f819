"""The kernel's maps, programs and links, by bpf(2) itself: no library is needed on a Pi."""

from libc.errno cimport EAGAIN, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memset, strncpy

from fastpath.sys_linux cimport close


cdef extern from *:
    """
    #include <sys/syscall.h>
    #include <unistd.h>
    #define fp_bpf(command, attributes, size) syscall(__NR_bpf, (command), (attributes), (size))
    """
    long fp_bpf(int command, void *attributes, size_t size) noexcept nogil


cdef enum:                      # bpf_cmd
    MAP_CREATE = 0
    MAP_LOOKUP_ELEM = 1
    MAP_UPDATE_ELEM = 2
    MAP_DELETE_ELEM = 3
    MAP_GET_NEXT_KEY = 4
    PROG_LOAD = 5
    OBJ_PIN = 6
    OBJ_GET = 7
    PROG_TEST_RUN = 10
    PROG_GET_FD_BY_ID = 13
    OBJ_GET_INFO_BY_FD = 15
    LINK_CREATE = 28
    LINK_UPDATE = 29
    LINK_DETACH = 34

cdef enum:
    NAME_SIZE = 16              # with the final NUL
    LOG_FAILURES = 1            # as long as the verifier's way to what it refuses
    BUSY_TRIES = 8              # PROG_LOAD says EAGAIN when a signal comes


# The members of union bpf_attr, each as the kernel lays it out: pointers have 8 bytes everywhere.
cdef struct map_create_t:
    uint32_t kind
    uint32_t key_size
    uint32_t value_size
    uint32_t n
    uint32_t flags
    uint32_t inner_map
    uint32_t numa_node
    char name[NAME_SIZE]

cdef struct element_t:
    uint32_t map
    uint32_t spare
    uint64_t key
    uint64_t value              # or the following key
    uint64_t flags

cdef struct program_load_t:
    uint32_t kind
    uint32_t n
    uint64_t code
    uint64_t license
    uint32_t log_level
    uint32_t log_size
    uint64_t log
    uint32_t kernel_version
    uint32_t flags
    char name[NAME_SIZE]
    uint32_t interface
    uint32_t where

cdef struct test_run_t:
    uint32_t program
    uint32_t verdict
    uint32_t frame_size
    uint32_t result_size
    uint64_t frame
    uint64_t result
    uint32_t repeat
    uint32_t run_ns
    uint32_t context_size
    uint32_t context_result_size
    uint64_t context
    uint64_t context_result
    uint32_t flags
    uint32_t cpu
    uint32_t batch_size
    uint32_t spare

cdef struct by_number_t:
    uint32_t number
    uint32_t following
    uint32_t flags

cdef struct info_t:
    uint32_t fd
    uint32_t size
    uint64_t info

cdef struct program_info_t:     # as much of bpf_prog_info as is asked for
    uint8_t before_name[64]
    char name[NAME_SIZE]

cdef struct link_create_t:
    uint32_t program
    uint32_t interface
    uint32_t where
    uint32_t flags
    uint64_t spare[6]


cdef struct link_update_t:
    uint32_t link
    uint32_t program
    uint32_t flags
    uint32_t former_program

cdef struct path_t:
    uint64_t path
    uint32_t fd
    uint32_t flags


cdef int _call(int command, void *attributes, size_t size) noexcept nogil:
    cdef int result = <int>fp_bpf(command, attributes, size)
    return result if result >= 0 else -errno


cdef int bpf_map_new(
    uint32_t kind, uint32_t key_size, uint32_t value_size, uint32_t n, uint32_t flags,
    const char *name,
) noexcept nogil:
    cdef map_create_t wanted
    memset(&wanted, 0, sizeof(wanted))
    wanted.kind = kind
    wanted.key_size = key_size
    wanted.value_size = value_size
    wanted.n = n
    wanted.flags = flags
    strncpy(wanted.name, name, NAME_SIZE - 1)
    return _call(MAP_CREATE, &wanted, sizeof(wanted))


cdef int _element(int command, int map, const void *key, const void *value) noexcept nogil:
    cdef element_t element
    memset(&element, 0, sizeof(element))
    element.map = map
    element.key = <uintptr_t>key
    element.value = <uintptr_t>value
    return _call(command, &element, sizeof(element))


cdef int bpf_map_put(int map, const void *key, const void *value) noexcept nogil:
    return _element(MAP_UPDATE_ELEM, map, key, value)


cdef int bpf_map_get(int map, const void *key, void *value) noexcept nogil:
    return _element(MAP_LOOKUP_ELEM, map, key, value)


cdef int bpf_map_delete(int map, const void *key) noexcept nogil:
    return _element(MAP_DELETE_ELEM, map, key, NULL)


cdef int bpf_map_next(int map, const void *key, void *following) noexcept nogil:
    return _element(MAP_GET_NEXT_KEY, map, key, following)


cdef int bpf_program_new(
    uint32_t kind, uint32_t where, const uint64_t *code, uint32_t n, const char *name,
    char *log, uint32_t log_size,
) noexcept nogil:
    cdef program_load_t wanted
    cdef int result = -EAGAIN
    cdef int _i
    memset(&wanted, 0, sizeof(wanted))
    wanted.kind = kind
    wanted.where = where
    wanted.code = <uintptr_t>code
    wanted.n = n
    wanted.license = <uintptr_t><const char *>b"Apache-2.0"
    if log != NULL:
        wanted.log_level = LOG_FAILURES
        wanted.log = <uintptr_t>log
        wanted.log_size = log_size
    strncpy(wanted.name, name, NAME_SIZE - 1)
    for _i in range(BUSY_TRIES):
        result = _call(PROG_LOAD, &wanted, sizeof(wanted))
        if result != -EAGAIN:
            break
    return result


cdef int bpf_program_run(int program, bpf_run_t *run) noexcept nogil:
    cdef test_run_t wanted
    cdef int result
    memset(&wanted, 0, sizeof(wanted))
    wanted.program = program
    wanted.frame = <uintptr_t>run.frame
    wanted.frame_size = run.frame_size
    wanted.result = <uintptr_t>run.result
    wanted.result_size = run.result_size
    wanted.context = <uintptr_t>run.context
    wanted.context_size = run.context_size
    wanted.repeat = run.repeat
    result = _call(PROG_TEST_RUN, &wanted, sizeof(wanted))
    run.result_size = wanted.result_size
    run.verdict = wanted.verdict
    run.run_ns = wanted.run_ns
    return result


cdef int _info(int fd, void *info, uint32_t size) noexcept nogil:
    cdef info_t ask
    memset(info, 0, size)
    ask.fd = fd
    ask.size = size
    ask.info = <uintptr_t>info
    return _call(OBJ_GET_INFO_BY_FD, &ask, sizeof(ask))


cdef int bpf_map_shape(int map, bpf_map_shape_t *shape) noexcept nogil:
    return _info(map, shape, sizeof(bpf_map_shape_t))


cdef int bpf_program_name(uint32_t number, char *name) noexcept nogil:
    cdef by_number_t wanted
    cdef program_info_t info
    cdef int fd
    cdef int result
    memset(&wanted, 0, sizeof(wanted))
    wanted.number = number
    fd = _call(PROG_GET_FD_BY_ID, &wanted, sizeof(wanted))
    if fd < 0:
        return fd
    result = _info(fd, &info, sizeof(info))
    close(fd)
    if result == 0:
        strncpy(name, info.name, NAME_SIZE)
        name[NAME_SIZE - 1] = 0
    return result


cdef int bpf_link_new(
    int program, uint32_t interface, uint32_t where, uint32_t flags
) noexcept nogil:
    cdef link_create_t wanted
    memset(&wanted, 0, sizeof(wanted))
    wanted.program = program
    wanted.interface = interface
    wanted.where = where
    wanted.flags = flags
    return _call(LINK_CREATE, &wanted, sizeof(wanted))


cdef int bpf_link_update(int link, int program) noexcept nogil:
    cdef link_update_t wanted
    memset(&wanted, 0, sizeof(wanted))
    wanted.link = link
    wanted.program = program
    return _call(LINK_UPDATE, &wanted, sizeof(wanted))


cdef int bpf_link_detach(int link) noexcept nogil:
    cdef uint32_t wanted = <uint32_t>link
    return _call(LINK_DETACH, &wanted, sizeof(wanted))


cdef int _path(int command, int fd, const char *path) noexcept nogil:
    cdef path_t wanted
    memset(&wanted, 0, sizeof(wanted))
    wanted.path = <uintptr_t>path
    wanted.fd = <uint32_t>fd
    return _call(command, &wanted, sizeof(wanted))


cdef int bpf_pin(int fd, const char *path) noexcept nogil:
    return _path(OBJ_PIN, fd, path)


cdef int bpf_pinned(const char *path) noexcept nogil:
    return _path(OBJ_GET, 0, path)
