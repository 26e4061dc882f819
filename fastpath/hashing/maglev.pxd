"""Maglev hashing (Eisenbud et al., NSDI 2016, section 3.4) with Envoy's rule for weights.

Every node of a cluster must compute the same table from the same backends, whatever its processor:
the caller sorts the nodes by name and gives both hashes of each name, and from there on all is
integers.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

cdef enum:
    # Entries of a table: prime, and over a hundred for each backend of any pool that we expect.
    MAGLEV_SIZE = 65537
    MAGLEV_SIZE_MAX = 5000011
    # What every entry of a table says that has no backend; so no node may have this index.
    MAGLEV_NONE = 0xffff

cdef enum:
    # What maglev_build returns.
    MAGLEV_OK = 0
    MAGLEV_BAD_SIZE = -1     # m is not a prime between 3 and MAGLEV_SIZE_MAX
    MAGLEV_BAD_INDEX = -2    # a node's index is MAGLEV_NONE
    MAGLEV_NO_MEMORY = -3

cdef struct maglev_node_t:
    uint64_t hash0      # xxh64(name, seed 0): where its permutation begins
    uint64_t hash1      # xxh64(name, seed 1): by how much it steps
    uint32_t weight     # its share of the turns; 0: gets no entry
    uint16_t index      # what the table's entries for it say

# Fill `table` (m entries, the caller's) from n nodes; it is untouched when the result is negative.
# Takes O(m * (n + log m)) steps at worst and memory of its own: not for the hot path.
cdef int maglev_build(
    const maglev_node_t *nodes, uint32_t n, uint16_t *table, uint32_t m
) noexcept nogil
