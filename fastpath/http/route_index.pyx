"""The index of one gateway's routes: off-line work, under the interpreter."""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free

from fastpath.abi cimport HOST_ANY, HOST_WILDCARD
from fastpath.http.routes cimport (
    host_node_t, path_node_t, route_host_hash, route_node_hash,
)
from fastpath.table_parts cimport array_new

import os


cdef class RouteIndex:
    """Owns the index of one gateway's routes; their texts are borrowed."""

    def __dealloc__(self):
        free(self.c.hosts)
        free(self.c.nodes)
        free(self.c.host_cells)
        free(self.c.node_cells)

    cdef object build(self, route_t *routes, Py_ssize_t n):
        cdef route_t *route
        cdef Py_ssize_t i, start
        cdef dict hosts = {}        # name -> number, which its root has, too
        cdef dict nodes = {}        # (parent, element) -> number
        cdef list places = []       # of each route: (host, node)
        cdef bytes path
        self.elements = []
        for i in range(n):
            hosts.setdefault(routes[i].host.data[:routes[i].host.size], len(hosts))
        for i in range(n):
            route = &routes[i]
            host = node = hosts[route.host.data[:route.host.size]]
            path = b"" if route.pattern != NULL else route.path.data[1:route.path.size]
            start = 1
            # The prefix `/` has no element, the exact path `/` an empty one.
            for element in path.split(b"/") if path or route.exact else ():
                key = (node, element)
                node = nodes.get(key)
                if node is None:
                    node = nodes[key] = len(hosts) + len(self.elements)
                    self.elements.append((key[0], i, start, len(element)))
                start += len(element) + 1
            places.append((host, node))
        self.c.seed = int.from_bytes(os.urandom(8), "little")
        self.put_hosts(routes, n, hosts)
        self.put_nodes(routes, len(hosts))
        for i in range(n - 1, -1, -1):          # the last one first: each goes before its chain
            host, node = places[i]
            self.put_route(&routes[i], host, node)
        for i in range(len(hosts) + len(self.elements)):
            settle(&self.c.nodes[i])

    cdef object put_hosts(self, route_t *routes, Py_ssize_t n, dict hosts):
        """Fill in the hosts, their roots, and the cells that lead to them."""
        cdef host_node_t *host
        cdef Py_ssize_t i, number
        cdef Py_ssize_t n_nodes = len(hosts) + len(self.elements)
        cdef uint32_t n_cells = cells_for(len(hosts))
        self.c.hosts = <host_node_t *>array_new(len(hosts), sizeof(host_node_t))
        self.c.nodes = <path_node_t *>array_new(n_nodes, sizeof(path_node_t))
        self.c.host_cells = <cell_t *>array_new(n_cells, sizeof(cell_t))
        self.c.host_mask = n_cells - 1
        for i in range(n):
            number = hosts[routes[i].host.data[:routes[i].host.size]]
            host = &self.c.hosts[number]
            if host.root != NULL:
                continue
            host.name = routes[i].host
            host.root = &self.c.nodes[number]
            if routes[i].host_kind == HOST_ANY:
                self.c.any = host
                continue
            if routes[i].host_kind == HOST_WILDCARD:
                self.c.wildcard_size = max(self.c.wildcard_size, host.name.size)
            put_cell(self.c.host_cells, self.c.host_mask, route_host_hash(&self.c, &host.name),
                     <uint32_t>number)

    cdef object put_nodes(self, route_t *routes, Py_ssize_t n_hosts):
        """Fill in what is below the roots, and the cells that lead there."""
        cdef path_node_t *node
        cdef Py_ssize_t number, parent, which, at
        cdef uint32_t n_cells = cells_for(len(self.elements))
        self.c.node_cells = <cell_t *>array_new(n_cells, sizeof(cell_t))
        self.c.node_mask = n_cells - 1
        for number, (parent, which, at, size) in enumerate(self.elements, n_hosts):
            node = &self.c.nodes[number]
            node.parent = &self.c.nodes[parent]
            node.parent.n_children += 1
            node.element.data = routes[which].path.data + at
            node.element.size = size
            put_cell(self.c.node_cells, self.c.node_mask,
                     route_node_hash(&self.c, node.parent, &node.element), <uint32_t>number)

    cdef object put_route(self, route_t *route, Py_ssize_t host, Py_ssize_t node):
        """Put it before those of the same host and path."""
        cdef route_t **chain = &self.c.nodes[node].prefixes
        if route.pattern != NULL:
            chain = &self.c.hosts[host].patterns
        elif route.exact:
            chain = &self.c.nodes[node].exact
        route.next = chain[0]
        chain[0] = route


cdef uint32_t cells_for(Py_ssize_t n):
    """A power of two, so that at most half of them are taken."""
    cdef uint32_t cells = 2
    while cells < 2 * n:
        cells *= 2
    return cells


cdef object put_cell(cell_t *cells, uint32_t mask, uint64_t hash, uint32_t number):
    cdef uint32_t cell = <uint32_t>hash & mask
    while cells[cell].at != 0:
        cell = (cell + 1) & mask
    cells[cell].hash = <uint32_t>(hash >> 32)
    cells[cell].at = number + 1


cdef object settle(path_node_t *node):
    """Find the nearest one with prefixes; those above have theirs."""
    if node.prefixes != NULL:
        node.up = node
    elif node.parent != NULL:
        node.up = node.parent.up
