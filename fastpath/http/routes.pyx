"""Which route a request takes (`piagent.core.routing` has the same rules, tried one by one)."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp

from fastpath.hashing.xxhash cimport xxh64
from fastpath.http.patterns cimport pattern_matches
from fastpath.http.predicates cimport conditions_match


cdef uint64_t route_host_hash(const route_index_t *self, const text_t *name) noexcept nogil:
    return xxh64(name.data, name.size, self.seed)


cdef uint64_t route_node_hash(const route_index_t *self, const path_node_t *parent,
                              const text_t *element) noexcept nogil:
    return xxh64(element.data, element.size, self.seed + 1 + <uint64_t>(parent - self.nodes))


cdef inline bint same_text(const text_t *one, const text_t *other) noexcept nogil:
    return one.size == other.size and memcmp(one.data, other.data, one.size) == 0


cdef const host_node_t *find_host(const route_index_t *self, const text_t *name) noexcept nogil:
    cdef uint64_t hash = route_host_hash(self, name)
    cdef uint32_t cell = <uint32_t>hash & self.host_mask
    cdef const host_node_t *host
    while self.host_cells[cell].at != 0:
        host = &self.hosts[self.host_cells[cell].at - 1]
        if self.host_cells[cell].hash == <uint32_t>(hash >> 32) and same_text(&host.name, name):
            return host
        cell = (cell + 1) & self.host_mask
    return NULL


cdef const path_node_t *find_child(const route_index_t *self, const path_node_t *parent,
                                   const text_t *element) noexcept nogil:
    cdef uint64_t hash = route_node_hash(self, parent, element)
    cdef uint32_t cell = <uint32_t>hash & self.node_mask
    cdef const path_node_t *node
    while self.node_cells[cell].at != 0:
        node = &self.nodes[self.node_cells[cell].at - 1]
        if (self.node_cells[cell].hash == <uint32_t>(hash >> 32) and node.parent == parent
                and same_text(&node.element, element)):
            return node
        cell = (cell + 1) & self.node_mask
    return NULL


cdef inline route_t *first_of(route_t *chain, const asked_t *asked) noexcept nogil:
    while chain != NULL and not conditions_match(&chain.conditions, asked):
        chain = chain.next
    return chain


cdef const path_node_t *descend(const route_index_t *self, const path_node_t *root,
                                const asked_t *asked, bint *is_whole) noexcept nogil:
    """The deepest node on the path; whether that is the whole path."""
    cdef const path_node_t *node = root
    cdef const path_node_t *child
    cdef text_t element
    cdef size_t at = 1                      # behind the slash
    cdef size_t end
    is_whole[0] = False
    while node.n_children:
        end = at
        while end < asked.path_size and asked.path[end] != c"/":
            end += 1
        element.data = asked.path + at
        element.size = <uint32_t>(end - at)
        child = find_child(self, node, &element)
        if child == NULL:
            break
        node = child
        if end == asked.path_size:
            is_whole[0] = True
            break
        at = end + 1
    return node


cdef route_t *route_of(const route_index_t *self, const host_node_t *host,
                       const asked_t *asked) noexcept nogil:
    """The route among those of one host."""
    cdef bint is_whole = False
    cdef const path_node_t *node = descend(self, host.root, asked, &is_whole)
    cdef route_t *route
    if is_whole:
        route = first_of(node.exact, asked)
        if route != NULL:
            return route
    node = node.up
    while node != NULL:
        route = first_of(node.prefixes, asked)
        if route != NULL:
            return route
        node = node.parent.up if node.parent != NULL else NULL
    route = host.patterns
    while route != NULL:
        if (pattern_matches(route.pattern, asked.path, asked.path_size)
                and conditions_match(&route.conditions, asked)):
            return route
        route = route.next
    return NULL


cdef route_t *route_of_wildcards(const route_index_t *self, bint any_depth,
                                 const asked_t *asked) noexcept nogil:
    """A wildcard stands for one label before its suffix, or with `any_depth` for more, too."""
    cdef const host_node_t *host
    cdef route_t *route
    cdef text_t suffix
    cdef size_t at = 1
    while at < asked.host_size:
        if asked.host[at] == c".":
            suffix.data = asked.host + at
            suffix.size = <uint32_t>(asked.host_size - at)
            if suffix.size <= self.wildcard_size:
                host = find_host(self, &suffix)
                route = route_of(self, host, asked) if host != NULL else NULL
                if route != NULL:
                    return route
            if not any_depth:
                return NULL
        at += 1
    return NULL


cdef route_t *route_find(const gateway_t *gateway, const asked_t *asked) noexcept nogil:
    cdef const route_index_t *self = <const route_index_t *>gateway.index
    cdef const host_node_t *host
    cdef route_t *route = NULL
    cdef text_t name
    if asked.host_size != 0:
        name.data = asked.host
        name.size = <uint32_t>asked.host_size
        host = find_host(self, &name)
        if host != NULL:
            route = route_of(self, host, asked)
        if route == NULL and self.wildcard_size != 0:
            route = route_of_wildcards(self, gateway.any_depth, asked)
    if route == NULL and self.any != NULL:
        route = route_of(self, self.any, asked)
    return route


cdef bint host_fits(const text_t *wanted, bint any_depth, const asked_t *asked) noexcept nogil:
    cdef size_t label_size
    if wanted.data[0] != c".":
        return (wanted.size == asked.host_size
                and memcmp(wanted.data, asked.host, wanted.size) == 0)
    if asked.host_size <= wanted.size:
        return False
    label_size = asked.host_size - wanted.size
    if memcmp(asked.host + label_size, wanted.data, wanted.size) != 0:
        return False
    return any_depth or memchr(asked.host, c".", label_size) == NULL


cdef bint host_is_served(const listener_t *listener, const asked_t *asked) noexcept nogil:
    cdef uint16_t i
    for i in range(listener.n_hosts):
        if host_fits(&listener.hosts[i], listener.gateway.any_depth, asked):
            return True
    return listener.n_hosts == 0
