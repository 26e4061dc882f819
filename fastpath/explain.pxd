"""What becomes of a flow, and why, for those who ask."""

from libc.stdint cimport uint64_t

from fastpath.abi cimport common_t, snapshot_t


# As Engine.explain. `tables` are those that the snapshot was made of; `hash_key`: two words.
cdef dict explain_flow(
    const snapshot_t *snapshot, common_t *common, const uint64_t *hash_key, tables, flow
)
