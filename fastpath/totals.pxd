"""What the workers counted, added up for Python."""

from fastpath.abi cimport common_t, snapshot_t
from fastpath.worker cimport worker_t


# Of the backend with that slot: counters as in Engine.stats()["services"].
cdef dict backend_total(worker_t **workers, int n_workers, int slot)
# Of its TCP connections: counts of buckets ("connect", "session") and sums of times.
cdef dict times_total(worker_t **workers, int n_workers, int slot)
# Of the service with that slot: how its connections "ended", and why others were "rejected".
cdef dict ends_total(worker_t **workers, int n_workers, int slot)
# Whether choices pass over the backend with that slot as ejected.
cdef object is_ejected(const common_t *common, const snapshot_t *snapshot, int slot)
# Of the listener with that slot: connections in all, and those open now.
cdef object accepted_total(worker_t **workers, int n_workers, int slot)
cdef object open_total(worker_t **workers, int n_workers, int slot)
# The other parts of Engine.stats(); `routes`: (gateway, route) -> slot.
cdef dict rejected_total(worker_t **workers, int n_workers)
cdef dict relays_total(worker_t **workers, int n_workers)
cdef dict udp_total(worker_t **workers, int n_workers)
cdef dict http_total(worker_t **workers, int n_workers, routes)
cdef list each_worker(worker_t **workers, int n_workers)
