"""Records of connections and requests that are over, for Python."""

from libc.stdint cimport uint8_t, uint16_t, uint64_t

from fastpath.abi cimport FP_OK, log_record_t
from fastpath.atomics cimport exchange
from fastpath.http.records cimport SAID_MAX, request_record_t, said_t
from fastpath.memory.ring cimport ring_dropped, ring_take
from fastpath.sys_linux cimport AF_INET, eventfd_read, ntohs, sockaddr_any_t

import socket
import time

from fastpath.http.answers import REFUSAL_NAMES
from fastpath.requests import REQUEST_ENDS, RequestRecord
from fastpath.tables import ENDS, REASONS, LogRecord


cdef str _address(const sockaddr_any_t *address):
    if address.any.sa_family == AF_INET:
        return socket.inet_ntop(socket.AF_INET, (<const uint8_t *>&address.v4.sin_addr)[:4])
    return socket.inet_ntop(socket.AF_INET6, (<const uint8_t *>&address.v6.sin6_addr)[:16])


cdef tuple _place(const sockaddr_any_t *address):
    """Address and port."""
    if address.any.sa_family == AF_INET:
        return _address(address), ntohs(address.v4.sin_port)
    return _address(address), ntohs(address.v6.sin6_port)


cdef str _said(const said_t *said):
    """A text of a client's; None: it did not say any."""
    if said.size == 0:
        return None
    text = said.text[:min(said.size, <uint16_t>SAID_MAX)].decode("latin-1")
    return f"{text}..." if said.size > SAID_MAX else text


cdef object _request(const request_record_t *record, object names, double epoch):
    cdef uint64_t complete_us = record.complete_us or record.ended_us
    service, backend = None, None
    if record.has_backend:
        service, backend = names.backends[record.backend_slot]
    return RequestRecord(
        names.gateways[record.gateway_slot],
        names.routes[record.route_slot][1] if record.has_route else None,
        service,
        backend,
        _address(&record.client),
        record.method[:record.method_size].decode("latin-1"),
        _said(&record.host),
        _said(&record.path),
        "HTTP/1.0" if record.is_old else "HTTP/1.1",
        record.status,
        record.bytes_in,
        record.bytes_out,
        epoch + record.begun_us / 1e6,
        (complete_us - record.begun_us) / 1e6,
        record.queue_us / 1e6,
        record.connect_us / 1e6 if record.has_backend else None,
        record.response_us / 1e6 if record.has_response else None,
        (record.ended_us - record.begun_us) / 1e6,
        record.retries,
        (REFUSAL_NAMES if record.is_refused else REQUEST_ENDS)[record.how],
        record.id[:record.id_size].decode("ascii") if record.id_size else None,
        _said(&record.referer),
        _said(&record.agent),
    )


cdef object _record(const log_record_t *record, object names, double epoch):
    """`epoch`: Unix time when CLOCK_MONOTONIC was zero."""
    client, client_port = _place(&record.client)
    address, port = _place(&record.local)
    return LogRecord(
        names.services[record.service_slot],
        names.backends[record.backend_slot][1] if record.has_backend else None,
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


cdef list read_records(worker_t **workers, int n_workers, object names):
    cdef log_record_t record
    cdef request_record_t request
    cdef double epoch = time.time() - time.monotonic()
    cdef int i
    records = []
    for i in range(n_workers):
        while ring_take(&workers[i].loop.log, &record) == FP_OK:
            records.append(_record(&record, names, epoch))
        while ring_take(&workers[i].loop.requests, &request) == FP_OK:
            records.append(_request(&request, names, epoch))
    return records


cdef list read_until_quiet(common_t *common, worker_t **workers, int n_workers, object names):
    cdef uint64_t times = 0
    eventfd_read(common.log_wake, &times)
    records = read_records(workers, n_workers, names)
    # From here on the next record wakes; what came before that, and after the reading, is read now.
    exchange(&common.log_wanted, 1)
    return records + read_records(workers, n_workers, names)


cdef object dropped_total(worker_t **workers, int n_workers):
    cdef int i
    dropped = 0
    for i in range(n_workers):
        dropped += ring_dropped(&workers[i].loop.log)
        dropped += ring_dropped(&workers[i].loop.requests)
    return dropped
