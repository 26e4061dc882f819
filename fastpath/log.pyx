"""Records of connections that are over, for Python."""

from libc.stdint cimport uint8_t, uint64_t

from fastpath.abi cimport FP_OK, log_record_t
from fastpath.atomics cimport exchange
from fastpath.memory.ring cimport ring_dropped, ring_take
from fastpath.sys_linux cimport AF_INET, eventfd_read, ntohs, sockaddr_any_t

import socket
import time

from fastpath.tables import ENDS, REASONS, LogRecord


cdef tuple _place(const sockaddr_any_t *address):
    """Address and port."""
    if address.any.sa_family == AF_INET:
        packed = (<const uint8_t *>&address.v4.sin_addr)[:4]
        return socket.inet_ntop(socket.AF_INET, packed), ntohs(address.v4.sin_port)
    packed = (<const uint8_t *>&address.v6.sin6_addr)[:16]
    return socket.inet_ntop(socket.AF_INET6, packed), ntohs(address.v6.sin6_port)


cdef object _record(const log_record_t *record, dict services, dict backends, double epoch):
    """`epoch`: Unix time when CLOCK_MONOTONIC was zero."""
    client, client_port = _place(&record.client)
    address, port = _place(&record.local)
    return LogRecord(
        services[record.service_slot],
        backends[record.backend_slot][1] if record.has_backend else None,
        client,
        client_port,
        address,
        port,
        epoch + record.accepted_us / 1e6,
        record.connect_us / 1e6 if record.has_backend else None,
        (record.ended_us - record.accepted_us) / 1e6,
        record.bytes_in,
        record.bytes_out,
        (REASONS if record.rejected else ENDS)[record.how],
    )


cdef list read_records(worker_t **workers, int n_workers, dict services, dict backends):
    cdef log_record_t record
    cdef double epoch = time.time() - time.monotonic()
    cdef int i
    records = []
    for i in range(n_workers):
        while ring_take(&workers[i].loop.log, &record) == FP_OK:
            records.append(_record(&record, services, backends, epoch))
    return records


cdef list read_until_quiet(
    common_t *common, worker_t **workers, int n_workers, dict services, dict backends
):
    cdef uint64_t times = 0
    eventfd_read(common.log_wake, &times)
    records = read_records(workers, n_workers, services, backends)
    # From here on the next record wakes; what came before that, and after the reading, is read now.
    exchange(&common.log_wanted, 1)
    return records + read_records(workers, n_workers, services, backends)


cdef object dropped_total(worker_t **workers, int n_workers):
    cdef int i
    dropped = 0
    for i in range(n_workers):
        dropped += ring_dropped(&workers[i].loop.log)
    return dropped
