"""Records of connections and requests that are over, for Python."""

from fastpath.abi cimport common_t
from fastpath.worker cimport worker_t


# Take what the workers have put down: a list of fastpath.tables.LogRecord and
# fastpath.requests.RequestRecord. `names`: fastpath.numbering.SlotNames. One thread at a time.
cdef list read_records(worker_t **workers, int n_workers, object names)
# The same, and nothing is left before the next wake-up comes.
cdef list read_until_quiet(common_t *common, worker_t **workers, int n_workers, object names)
# How many there was no room for.
cdef object dropped_total(worker_t **workers, int n_workers)
