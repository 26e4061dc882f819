"""What becomes of a flow, and why, for those who ask.

The answer comes from the functions that the workers use, run on a loop that no thread turns, with
copies of what they would change.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from fastpath.abi cimport (
    BALANCE_MAGLEV, PROTOCOL_UDP, backend_t, common_t, counters_t, listener_t, service_t,
    snapshot_t,
)
from fastpath.atomics cimport load_relaxed, load_signed
from fastpath.hashing.maglev cimport MAGLEV_SIZE
from fastpath.loop cimport loop_t
from fastpath.proxy.affinity cimport affinity_recall
from fastpath.proxy.balance cimport balance_choose, service_hash
from fastpath.proxy.policies cimport (
    choice_init, choice_passes, choice_t, connections_of, slow_start_share, tries_t,
)
from fastpath.proxy.prefixes cimport prefixes_have
from fastpath.snapshot cimport put_address
from fastpath.sys_linux cimport IPPROTO_TCP, IPPROTO_UDP, sockaddr_any_t

import time

from fastpath.sockets import resolve
from fastpath.tables import BALANCES, PASSES


cdef class Stage:
    """A loop and counters that a choice may change, of one service and one worker."""

    cdef loop_t *loop
    cdef counters_t *counters
    cdef const service_t *service
    cdef list names             # of the service's backends

    def __cinit__(self):
        self.loop = <loop_t *>calloc(1, sizeof(loop_t))
        self.counters = <counters_t *>calloc(1, sizeof(counters_t))
        if self.loop == NULL or self.counters == NULL:
            raise MemoryError
        self.loop.counters = self.counters
        self.loop.now_ms = time.monotonic_ns() // 1_000_000

    def __dealloc__(self):
        free(self.loop)
        free(self.counters)

    cdef object stand_for(self, uint32_t worker):
        """Take over what round robin remembers in that worker."""
        cdef const counters_t *theirs = self.loop.common.counters[worker]
        cdef uint32_t i, slot
        for i in range(self.service.n_backends):
            slot = self.service.backends[i].slot
            self.counters.backends[slot].current_weight = load_signed(
                &theirs.backends[slot].current_weight
            )

    cdef str known(self, const sockaddr_any_t *client):
        """The backend that the client is remembered to have had, or None."""
        cdef const backend_t *backend = affinity_recall(self.loop, self.service, client)
        return None if backend == NULL else self.names[backend - self.service.backends]

    cdef list order(self, uint64_t hash, str known):
        """Which backends are tried, one after the other."""
        cdef const backend_t *backend
        cdef tries_t tries
        tries.n = 0
        order = []
        if known is not None:
            order.append(known)
            tries.slots[0] = self.service.backends[<int>self.names.index(known)].slot
            tries.n = 1
        while True:
            backend = balance_choose(self.loop, self.service, hash, &tries)
            if backend == NULL:
                return order
            order.append(self.names[backend - self.service.backends])

    cdef dict backends(self, uint64_t hash):
        """What a first choice sees of each."""
        cdef const backend_t *backend
        cdef choice_t choice
        cdef tries_t tries
        cdef uint64_t now_ms = self.loop.now_ms
        cdef uint64_t until_ms
        cdef uint32_t i
        tries.n = 0
        choice_init(
            &choice, self.service, self.loop.common, self.counters.backends, &tries, hash, now_ms
        )
        seen = {}
        for i, name in enumerate(self.names):
            backend = &self.service.backends[i]
            until_ms = load_relaxed(&self.loop.common.outliers[backend.slot].until_ms)
            seen[name] = {
                "weight": backend.weight,
                "up": bool(backend.up),
                "active": connections_of(self.loop.common, backend.slot),
                "share": slow_start_share(
                    backend.returned_ms, self.service.slow_start_ms, now_ms
                ) / 65536.0,
                "ejected_ms": until_ms - now_ms if until_ms > now_ms else 0,
                "passed_over": PASSES[<int>choice_passes(&choice, i)],
            }
        return seen


def find_listener(listeners, endpoint, udp):
    """Index of the listener that gets what comes to that place, or None."""
    wildcard = None
    for index, each in enumerate(listeners):
        bound = resolve(each.address, each.port)
        if (bound.port, bound.family, each.udp) != (endpoint.port, endpoint.family, udp):
            continue
        if bound.packed == endpoint.packed and bound.scope in {0, endpoint.scope}:
            return index
        if not any(bound.packed):
            wildcard = index
    return wildcard


cdef dict explain_flow(
    const snapshot_t *snapshot, common_t *common, const uint64_t *hash_key, tables, flow
):
    cdef const listener_t *listener
    cdef sockaddr_any_t peer, local
    source, target = resolve(flow.src, flow.sport), resolve(flow.dst, flow.dport)
    if source.family != target.family:
        raise ValueError(f"{flow.src} and {flow.dst} are not of one IP version")
    answer = dict.fromkeys((
        "listener", "gateway", "service", "allowed", "header", "policy", "affinity", "hash",
        "entry", "table", "remembered", "chosen", "orders", "backends",
    ))
    index = find_listener(tables.listeners, target, flow.udp)
    if index is None:
        return answer
    answer["listener"] = tables.listeners[index].place
    listener = &snapshot.listeners[<int>index]
    if listener.service == NULL:
        answer["gateway"] = tables.listeners[index].target
        return answer
    answer["service"] = tables.listeners[index].target
    put_address(&peer, flow.src, flow.sport)
    local = listener.address
    if flow.udp:                        # a session knows which address of ours it is for
        put_address(&local, flow.dst, flow.dport)
    _explain_choice(answer, snapshot, common, hash_key, tables, listener, &peer, &local)
    return answer


cdef object _explain_choice(
    dict answer, const snapshot_t *snapshot, common_t *common, const uint64_t *hash_key, tables,
    const listener_t *listener, const sockaddr_any_t *peer, const sockaddr_any_t *local,
):
    """Fill in what the listener's service says."""
    cdef const service_t *service = listener.service
    cdef uint8_t protocol = IPPROTO_UDP if listener.protocol == PROTOCOL_UDP else IPPROTO_TCP
    cdef uint64_t hash = service_hash(hash_key, service, peer, local, protocol)
    cdef Stage stage = Stage()
    cdef uint32_t worker
    stage.loop.snapshot = <snapshot_t *>snapshot
    stage.loop.common = common
    stage.service = service
    stage.names = sorted(
        [each.name for each in tables.services[service - snapshot.services].backends]
    )
    answer["allowed"] = not service.allowed.n or bool(prefixes_have(&service.allowed, peer))
    answer["header"] = bool(prefixes_have(&service.trusted, peer))
    answer["policy"] = BALANCES[BALANCE_MAGLEV if service.affinity else service.balance]
    answer["affinity"] = bool(service.affinity)
    answer["hash"] = f"{hash:016x}"
    answer["entry"] = hash % MAGLEV_SIZE
    if service.maglev != NULL:
        answer["table"] = stage.names[service.maglev[hash % MAGLEV_SIZE]]
    answer["remembered"] = stage.known(peer)
    answer["backends"] = stage.backends(hash)
    answer["orders"] = []
    for worker in range(common.n_workers):
        stage.stand_for(worker)
        answer["orders"].append(stage.order(hash, answer["remembered"]))
    firsts = {order[0] if order else None for order in answer["orders"]}
    answer["chosen"] = firsts.pop() if len(firsts) == 1 else None
