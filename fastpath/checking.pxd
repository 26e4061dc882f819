"""Credentials that workers want checked, for Python, and what Python says to that."""

from fastpath.abi cimport common_t
from fastpath.worker cimport worker_t


# A key for the digests of credentials, of 32 bytes.
cdef object checking_key(common_t *common, bytes key)
# Take what the workers ask for: a list of fastpath.verifying.Ask. One thread at a time.
cdef list checking_take(worker_t **workers, int n_workers)
# Whether the credentials of this digest are right; None: nobody knows.
cdef object checking_remembered(common_t *common, bytes digest)
# Remember a verdict, unless it is None, and tell the worker that asked. One thread at a time.
cdef object checking_tell(common_t *common, worker_t *worker, bytes digest, object is_right)
