"""What is known of clients, in one table for all workers: open connections, and whose they were.

An entry says one of two things of a client of a service. *Counted*: how many connections of it are
open; the entry is there as long as one is, so a pointer to it may be kept. *Remembered*: which
backend it had last (affinity with a timeout); when a place is needed the one that was used the
longest ago is forgotten first.

With a capacity of no less than there can be open connections, counting always finds a place:
nobody is turned away for the table's sake, and nobody escapes the count. What somebody with many
addresses can do is to have other clients' backends forgotten; these are chosen anew then.

IPv4 clients are told apart by their address. IPv6 ones are counted by their /64, because a site or
a host has all of that to choose from; but link-local and unique local addresses (RFC 4291 section
2.5.6, RFC 4193) are counted one by one, for there the neighbours on a link share the /64. What is
remembered goes by the whole address.

Any thread may call these; each holds the table's lock for a few memory accesses.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fastpath.abi cimport MAX_SERVICES, service_t
from fastpath.memory.lock cimport lock_t
from fastpath.memory.slab cimport slab_t
from fastpath.address cimport ADDRESS_SIZE
from fastpath.sys_linux cimport sockaddr_any_t


cdef struct client_key_t:       # no padding, so that bytes can be hashed and compared
    uint8_t address[ADDRESS_SIZE]   # IPv4 as ::ffff:a.b.c.d
    uint64_t service            # one that no other service ever has
    uint64_t kind               # counted or remembered


cdef struct known_client_t:
    known_client_t *chain       # next in the same bucket
    known_client_t *newer       # in the list of those remembered
    known_client_t *older
    uint64_t hash               # of `key`
    client_key_t key
    uint64_t backend            # remembered: one that no other backend ever has
    uint64_t used_ms            # remembered: when
    uint64_t n_open             # counted


cdef struct clients_t:
    lock_t lock                 # of all that follows but the hash key
    uint64_t hash_key[2]
    slab_t slab
    slab_t table_memory
    known_client_t **table      # buckets by hash
    known_client_t *newest      # of those remembered
    known_client_t *oldest
    uint64_t n_buckets          # a power of two


# Room for `capacity` entries. FP_OK, or FP_FULL and nothing is set aside.
cdef int clients_init(
    clients_t *self, uint32_t capacity, const uint64_t *hash_key
) noexcept nogil
cdef void clients_free(clients_t *self) noexcept nogil

# Count one more connection if fewer than `limit` are open. FP_OK: hand `counted` to clients_leave
# once; FP_FULL: it is NULL.
cdef int clients_enter(
    clients_t *self,
    uint64_t service,
    const sockaddr_any_t *client,
    uint32_t limit,
    known_client_t **counted,
) noexcept nogil
# The connection has ended.
cdef void clients_leave(clients_t *self, known_client_t *counted) noexcept nogil

# A connection of this client went to that backend.
cdef void clients_remember(
    clients_t *self,
    uint64_t service,
    const sockaddr_any_t *client,
    uint64_t backend,
    uint64_t now_ms,
) noexcept nogil
# FP_OK and the backend, if that was less than `timeout_ms` ago; else FP_AGAIN.
cdef int clients_recall(
    clients_t *self,
    uint64_t service,
    const sockaddr_any_t *client,
    uint32_t timeout_ms,
    uint64_t now_ms,
    uint64_t *backend,
) noexcept nogil


cdef inline uint64_t service_key(const service_t *service) noexcept nogil:
    """What stands for this service and never for another, whoever gets its slot."""
    return service.born * MAX_SERVICES + service.slot
