"""Fills a Maglev table: nodes take turns, each claims the next free entry of its permutation."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

cdef struct walker_t:
    uint64_t turns      # entries claimed so far
    uint32_t entry      # the next entry of its permutation
    uint32_t skip


cdef inline bint is_prime(uint32_t m) noexcept nogil:
    """Only then does every skip visit all the entries."""
    cdef uint32_t divisor = 3
    if m % 2 == 0:
        return False
    while <uint64_t>divisor * divisor <= m:
        if m % divisor == 0:
            return False
        divisor += 2
    return True


cdef inline void claim(
    walker_t *self, uint16_t *table, uint32_t m, uint16_t index
) noexcept nogil:
    """Take the next free entry; there must be one."""
    while table[self.entry] != MAGLEV_NONE:
        self.entry += self.skip
        if self.entry >= m:
            self.entry -= m
    table[self.entry] = index
    self.turns += 1


cdef void fill(
    const maglev_node_t *nodes, walker_t *walkers, uint32_t n,
    uint16_t *table, uint32_t m, uint64_t weight_max,
) noexcept nogil:
    """Rounds until every entry is claimed; a node of the greatest weight has a turn in each.

    A node that had `turns` turns waits while round * weight / weight_max < turns. So each node gets
    its first turn in the first round, however small its weight. Products stay below 2^55: there are
    at most m rounds.
    """
    cdef uint64_t round = 0
    cdef uint32_t left = m
    cdef uint32_t i
    while True:
        round += 1
        for i in range(n):
            if nodes[i].weight == 0 or round * nodes[i].weight < walkers[i].turns * weight_max:
                continue
            claim(&walkers[i], table, m, nodes[i].index)
            left -= 1
            if left == 0:
                return


cdef int maglev_build(
    const maglev_node_t *nodes, uint32_t n, uint16_t *table, uint32_t m
) noexcept nogil:
    cdef uint32_t weight_max = 0
    cdef uint32_t i
    cdef walker_t *walkers
    if not 3 <= m <= MAGLEV_SIZE_MAX or not is_prime(m):
        return MAGLEV_BAD_SIZE
    for i in range(n):
        if nodes[i].index == MAGLEV_NONE:
            return MAGLEV_BAD_INDEX
        weight_max = max(weight_max, nodes[i].weight)
    walkers = <walker_t *>malloc((<size_t>n + 1) * sizeof(walker_t))
    if walkers == NULL:
        return MAGLEV_NO_MEMORY
    for i in range(n):
        walkers[i].turns = 0
        walkers[i].entry = <uint32_t>(nodes[i].hash0 % m)
        walkers[i].skip = <uint32_t>(nodes[i].hash1 % (m - 1)) + 1
    for i in range(m):
        table[i] = MAGLEV_NONE
    if weight_max > 0:
        fill(nodes, walkers, n, table, m, weight_max)
    free(walkers)
    return MAGLEV_OK
