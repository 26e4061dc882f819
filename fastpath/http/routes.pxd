"""Which route a request takes, in steps that do not depend on how many there are.

Hosts are found by a hash: the exact one, then wildcards from the longest, then what takes any host.
Each has a tree of path elements whose edges are found by a hash, too. Down the tree as far as it
goes, then up again: an exact path first, then the prefixes, the longest first, and at last regular
expressions, one after the other. Routes with one host and path form a chain in their order of
precedence. A host none of whose routes fits leaves the request to the next one.

The hashes' seed is drawn for each index, though only the tables decide what is in them: who looks
up what nobody put there cannot make that take longer than the longest run of cells.
"""

from libc.stdint cimport uint32_t, uint64_t

from fastpath.abi cimport gateway_t, listener_t, route_t, text_t
from fastpath.http.predicates cimport asked_t

cdef struct path_node_t:        # a path up to one of its elements; below a host's root
    text_t element
    path_node_t *parent         # NULL: this is a root
    path_node_t *up             # the nearest one with prefixes, this one or above; NULL: none
    route_t *exact              # the first of a chain (route_t.next)
    route_t *prefixes
    uint32_t n_children

cdef struct host_node_t:
    text_t name                 # of a wildcard what follows the `*`
    path_node_t *root
    route_t *patterns           # the first of a chain

cdef struct cell_t:             # of a hash table with open addressing, at most half full
    uint32_t hash               # its upper half
    uint32_t at                 # 1 + an index; 0: free

cdef struct route_index_t:      # of one gateway; all is owned by http.route_index.RouteIndex
    host_node_t *hosts
    path_node_t *nodes          # of all hosts
    cell_t *host_cells
    cell_t *node_cells          # by parent and element
    const host_node_t *any      # in `hosts`; NULL: no route takes any host
    uint64_t seed
    uint32_t host_mask          # one less than there are cells
    uint32_t node_mask
    uint32_t wildcard_size      # of the longest wildcard; 0: there is none

# Whether the listener is one for the request's host.
cdef bint host_is_served(const listener_t *listener, const asked_t *asked) noexcept nogil

# The route, or NULL.
cdef route_t *route_find(const gateway_t *gateway, const asked_t *asked) noexcept nogil

cdef uint64_t route_host_hash(const route_index_t *self, const text_t *name) noexcept nogil
cdef uint64_t route_node_hash(const route_index_t *self, const path_node_t *parent,
                              const text_t *element) noexcept nogil
