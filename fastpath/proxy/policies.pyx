"""One choice of a backend: who is passed over and why, and what each policy says of the others."""

from fastpath.abi cimport (
    BALANCE_LEAST, BALANCE_MAGLEV, BALANCE_RANDOM_TWO, BALANCE_ROUND_ROBIN, backend_t,
)
from fastpath.atomics cimport gauge, load_signed, store_signed
from fastpath.hashing.bits cimport draw64
from fastpath.hashing.maglev cimport MAGLEV_SIZE
from fastpath.proxy.outlier cimport outlier_is_ejected, outlier_last


cdef enum:
    WHOLE = 65536               # of a share
    SHARE_MIN = 6554            # a tenth
    DRAWS_MAX = 64              # entries of the Maglev table that one choice looks at
    # By how many rounds a backend may be behind or ahead of its share: more comes of weights that
    # were others when it was noted. With the same ones all the time it stays below two.
    ROUNDS_MAX = 4

# Which numbers of the hash's sequence of draws are for what, after those of _drawn.
cdef enum:
    DRAW_TIE = 0x10000          # by index, of backends with equally many connections
    DRAW_SLOW = 0x20000         # by slot, of backends that came back


cdef void choice_init(
    choice_t *self, const service_t *service, const common_t *common, backend_counters_t *own,
    const tries_t *tries, uint64_t hash, uint64_t now_ms,
) noexcept nogil:
    self.service = service
    self.common = common
    self.own = own
    self.tries = tries
    self.hash = hash
    self.now_ms = now_ms
    self.ejected_last = -2
    self.lenience = 0


# ---- who is passed over ----

cdef bint _is_tried(const tries_t *tries, uint16_t slot) noexcept nogil:
    cdef uint8_t i
    for i in range(tries.n):
        if tries.slots[i] == slot:
            return True
    return False


cdef bint _is_ejected(choice_t *self, uint32_t index) noexcept nogil:
    if self.service.eject_failures == 0 or not outlier_is_ejected(
        self.common, &self.service.backends[index], self.now_ms
    ):
        return False
    if self.ejected_last == -2:
        self.ejected_last = outlier_last(self.common, self.service, self.now_ms)
    return <int32_t>index <= self.ejected_last


cdef uint32_t slow_start_share(
    uint64_t returned_ms, uint32_t slow_start_ms, uint64_t now_ms
) noexcept nogil:
    # The tables may be newer than the worker's clock.
    cdef uint64_t passed_ms = now_ms - returned_ms if now_ms > returned_ms else 0
    if returned_ms == 0 or passed_ms >= slow_start_ms:
        return WHOLE
    return SHARE_MIN + <uint32_t>((WHOLE - SHARE_MIN) * passed_ms // slow_start_ms)


cdef bint _is_slow(const choice_t *self, const backend_t *backend) noexcept nogil:
    """Whether the flow is none of those that the backend gets already.

    By hash: as its share rises more flows come to it, and none that has come goes away again.
    """
    if self.service.slow_start_ms == 0 or backend.returned_ms == 0:
        return False
    return draw64(self.hash, DRAW_SLOW + <uint64_t>backend.slot) >> 48 >= slow_start_share(
        backend.returned_ms, self.service.slow_start_ms, self.now_ms
    )


cdef pass_t choice_passes(choice_t *self, uint32_t index) noexcept nogil:
    cdef const backend_t *backend = &self.service.backends[index]
    if not backend.usable:
        return PASS_UNUSABLE
    if _is_tried(self.tries, backend.slot):
        return PASS_TRIED
    if self.lenience < 2 and _is_ejected(self, index):
        return PASS_EJECTED
    if self.lenience < 1 and _is_slow(self, backend):
        return PASS_SLOW
    return PASS_NOT


# ---- the policies; -1: all are passed over ----

cdef int32_t _any(choice_t *self) noexcept nogil:
    """One after the other, beginning somewhere."""
    cdef uint32_t n = self.service.n_backends
    cdef uint32_t start = <uint32_t>(self.hash % n)
    cdef uint32_t i
    for i in range(start, start + n):
        if choice_passes(self, i % n) == PASS_NOT:
            return <int32_t>(i % n)
    return -1


cdef inline uint32_t _drawn(const choice_t *self, int number) noexcept nogil:
    """Whose entry of the Maglev table the hash gives; for numbers above 0 another one, by weight.

    Not the entries after it: with few backends the same one often follows another, and would get
    most of what that one cannot take.
    """
    cdef uint64_t draw = self.hash if number == 0 else draw64(self.hash, <uint64_t>number)
    return self.service.maglev[draw % MAGLEV_SIZE]


cdef int32_t _maglev(choice_t *self) noexcept nogil:
    """The first one drawn."""
    cdef uint32_t index
    cdef int i
    for i in range(DRAWS_MAX):
        index = _drawn(self, i)
        if choice_passes(self, index) == PASS_NOT:
            return <int32_t>index
    return _any(self)


cdef int32_t _round_robin(choice_t *self) noexcept nogil:
    """nginx's smooth weighted one: each gains its weight, the first gives the sum of all away."""
    cdef const service_t *service = self.service
    cdef backend_counters_t *own
    cdef int64_t far = ROUNDS_MAX * <int64_t>service.weight
    cdef int64_t current, best_current = 0, total = 0
    cdef int32_t best = -1
    cdef uint32_t i
    for i in range(service.n_backends):
        if choice_passes(self, i) != PASS_NOT:
            continue
        own = &self.own[service.backends[i].slot]
        current = load_signed(&own.current_weight)
        if not -far <= current <= far:
            current = 0
        current += service.backends[i].weight
        store_signed(&own.current_weight, current)
        total += service.backends[i].weight
        if best < 0 or current > best_current:
            best = <int32_t>i
            best_current = current
    if best >= 0:
        gauge(&self.own[service.backends[best].slot].current_weight, -total)
    return best


cdef int64_t connections_of(const common_t *common, uint16_t slot) noexcept nogil:
    cdef int64_t n = 0
    cdef uint32_t i
    for i in range(common.n_workers):
        n += load_signed(&common.counters[i].backends[slot].active)
    return n


cdef int32_t _least(choice_t *self) noexcept nogil:
    """The fewest connections for its weight; of several such, by weight and chance."""
    cdef const backend_t *backend
    cdef int64_t connections, best_connections = 0
    cdef int64_t weight, best_weight = 1
    cdef uint64_t ties = 0
    cdef int32_t best = -1
    cdef uint32_t i
    for i in range(self.service.n_backends):
        if choice_passes(self, i) != PASS_NOT:
            continue
        backend = &self.service.backends[i]
        weight = backend.weight
        connections = connections_of(self.common, backend.slot)
        if best < 0 or connections * best_weight < best_connections * weight:
            ties = <uint64_t>weight
        elif connections * best_weight == best_connections * weight:
            ties += <uint64_t>weight
            if draw64(self.hash, DRAW_TIE + <uint64_t>i) % ties >= <uint64_t>weight:
                continue
        else:
            continue
        best = <int32_t>i
        best_connections = connections
        best_weight = weight
    return best


cdef int32_t _random_two(choice_t *self) noexcept nogil:
    """Of the first two drawn the one with fewer connections for its weight, else the first."""
    cdef const backend_t *first
    cdef const backend_t *second
    cdef int32_t one = -1
    cdef int32_t two
    cdef int i
    for i in range(DRAWS_MAX):
        two = <int32_t>_drawn(self, i)
        if two == one or choice_passes(self, two) != PASS_NOT:
            continue
        if one < 0:
            one = two
            continue
        first = &self.service.backends[one]
        second = &self.service.backends[two]
        if (
            connections_of(self.common, second.slot) * first.weight
            < connections_of(self.common, first.slot) * second.weight
        ):
            return two
        return one
    return one if one >= 0 else _any(self)


cdef int32_t choice_make(choice_t *self) noexcept nogil:
    cdef uint8_t policy = BALANCE_MAGLEV if self.service.affinity else self.service.balance
    cdef int32_t index = -1
    cdef int lenience
    if self.service.maglev == NULL:         # nobody is usable
        return -1
    for lenience in range(3):
        self.lenience = <uint8_t>lenience
        if policy == BALANCE_ROUND_ROBIN:
            index = _round_robin(self)
        elif policy == BALANCE_LEAST:
            index = _least(self)
        elif policy == BALANCE_RANDOM_TWO:
            index = _random_two(self)
        else:
            index = _maglev(self)
        if index >= 0:
            break
    return index
