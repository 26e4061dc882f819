"""Names of services in the DNS: a configuration, what is down, a question -> an answer.

The schema is that of the Kubernetes DNS-Based Service Discovery Specification 1.1.0 with
`<service>.<cluster>.piagent` in place of `<service>.<ns>.svc.<zone>`:

    web.home.piagent                A, AAAA   its cluster addresses; without any, its VIPs; of a
                                              headless service, the backends that are usable
    _http._tcp.web.home.piagent     SRV       a port and the name to find it at; of a headless
                                              service, one for each backend that is usable
    192-168-1-21.db.home.piagent    A, AAAA   a usable backend of a headless service
    wiki.home.piagent               CNAME     what an external service stands for
    www.home.piagent                A, AAAA   the VIPs of a gateway, unless a service has its name
    5.0.0.10.in-addr.arpa           PTR       whose cluster address or VIP that is

A name exists while it has a record, or a name below it has (RFC 8020): a headless service without a
usable backend does not, as the specification wants it.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from ipaddress import ip_address
from typing import Final

from msgspec import Struct

from piagent.core.model import Backend, Config, Gateway, Service, ServicePort

TTL_S: Final = 5
NEGATIVE_TTL_S: Final = 1
"""For how long a resolver may remember that there is nothing (RFC 2308)."""
TOP: Final = "piagent"
MAX_ALIASES: Final = 8
"""CNAMEs that one answer follows."""
_REVERSE: Final = (".in-addr.arpa", ".ip6.arpa")

Down = frozenset[tuple[str, str]]
"""(service name, backend id) of the backends that get no new connection."""


class Type(IntEnum):
    """Record types (RFC 1035, 3596, 2782), as the wire has them."""

    A = 1
    CNAME = 5
    SOA = 6
    PTR = 12
    AAAA = 28
    SRV = 33
    ANY = 255


class Code(IntEnum):
    """Response codes (RFC 1035 section 4.1.1)."""

    NOERROR = 0
    NXDOMAIN = 3
    REFUSED = 5


class Question(Struct, frozen=True):
    """What is asked, in class IN."""

    name: str
    """Without the last dot; in any case. A dot within a label is written `\\046`."""
    type: int


class Srv(Struct, frozen=True):
    """Where a port is (RFC 2782). There is one priority, 0."""

    weight: int
    port: int
    target: str
    addresses: tuple[str, ...]
    """Of the target: they come along, so that nobody has to ask again."""


class Soa(Struct, frozen=True):
    """That a zone begins here (RFC 1035 section 3.3.13). Nobody transfers it: no times."""

    mname: str
    rname: str
    minimum_s: int


class Record(Struct, frozen=True):
    """One resource record."""

    name: str
    type: Type
    data: str | Srv | Soa
    """An address (A, AAAA), a name (CNAME, PTR), or what the type needs."""
    ttl_s: int = TTL_S


class Answer(Struct, frozen=True, kw_only=True):
    """What to say to a question."""

    code: Code = Code.NOERROR
    records: tuple[Record, ...] = ()
    authority: tuple[Record, ...] = ()
    additional: tuple[Record, ...] = ()
    """Addresses of the names in `records`; may be left out when there is no room."""
    why: str = ""
    """What is behind an answer without records, for people."""


class Zone:
    """All names of one configuration."""

    def __init__(self, config: Config) -> None:
        """Index it: some microseconds a service."""
        self.origin = f"{config.cluster}.{TOP}"
        self._holders: dict[str, Service | Gateway] = {}
        """By full name in lower case."""
        self._between = {self.origin.lower()}
        """Names that exist because a holder's name, which may have dots, is below them."""
        self._of_address: dict[str, list[str]] = {}
        """Names by cluster address and VIP."""
        for holder in _holders(config):
            name = f"{holder.name}.{self.origin}"
            key = name.lower()
            if key in self._holders:
                continue
            self._holders[key] = holder
            if "." in holder.name:
                self._between.update(_ancestors(key, self.origin.lower()))
            for address in _addresses(holder, both=True):
                self._of_address.setdefault(address, []).append(name)

    def answer(self, question: Question, down: Down = frozenset()) -> Answer:
        """Answer as the authority for the zone; REFUSED for what is neither in it nor ours."""
        name = question.name.lower()
        names = self._of_address.get(_reversed(name), ())
        pointers = [Record(question.name, Type.PTR, one) for one in names if _is_name(one)]
        if pointers:
            chosen = _chosen(pointers, question.type)
            return Answer(records=chosen) if chosen else Answer(authority=(_soa(question.name),))
        if not self._contains(name):
            what = "an address of ours" if name.endswith(_REVERSE) else f"a name in {self.origin}"
            return Answer(code=Code.REFUSED, why=f"not {what}")
        return self._authoritative(question, down)

    def _authoritative(self, question: Question, down: Down) -> Answer:
        """RFC 1034 section 4.3.2: follow aliases for as long as they lead to names in the zone."""
        aliases: list[Record] = []
        name = question.name
        while True:
            found = list(self._records(name, down))
            chosen = _chosen(found, question.type)
            if chosen:
                return Answer(records=(*aliases, *chosen), additional=_additional(chosen))
            alias = next((r for r in found if r.type is Type.CNAME), None)
            if alias is None:
                break
            aliases.append(alias)
            name = str(alias.data)
            if not self._contains(name.lower()) or len(aliases) == MAX_ALIASES:
                return Answer(records=tuple(aliases))
        exists = found or self._exists(name.lower(), down)
        return Answer(
            code=Code.NOERROR if exists else Code.NXDOMAIN,  # of the last name: RFC 6604
            records=tuple(aliases),
            authority=(_soa(self.origin),),
            why="" if found else self._why_not(name.lower(), down),
        )

    def _contains(self, name: str) -> bool:
        origin = self.origin.lower()
        return name == origin or name.endswith(f".{origin}")

    def _held(self, name: str) -> tuple[Service | Gateway | None, str]:
        """Whose name it is or is below, and what stands before that; the longest one counts."""
        before = ""
        rest = name
        while rest and rest not in self._holders:
            label, _, rest = rest.partition(".")
            before = f"{before}.{label}" if before else label
        return self._holders.get(rest), before

    def _records(self, name: str, down: Down) -> Iterator[Record]:
        """Yield everything that a name in the zone has."""
        if name.lower() == self.origin.lower():
            yield _soa(name)
        holder, before = self._held(name.lower())
        if holder is None:
            return
        if not before:
            yield from _own_records(name, holder, down)
        elif isinstance(holder, Service) and before.startswith("_"):
            origin = f"{holder.name}.{self.origin}"
            for port in holder.ports:
                if _port_label(port) == before:
                    yield from (Record(name, Type.SRV, s) for s in _srv(holder, port, origin, down))
        elif isinstance(holder, Service) and _shows_backends(holder):
            address = _labelled(before)
            if any(one.address == address for one in _usable(holder, down)):
                yield _address(name, address)

    def _exists(self, name: str, down: Down) -> bool:
        """Whether a name without records is above one that has some."""
        holder, before = self._held(name)
        if name in self._between or holder is None or not before:
            return name in self._between
        return isinstance(holder, Service) and any(
            _port_label(port).endswith(f".{before}") and any(_srv(holder, port, "", down))
            for port in holder.ports
        )

    def _why_not(self, name: str, down: Down) -> str:
        holder, _ = self._held(name)
        if holder is None or any(_own_records(name, holder, down)):
            return ""
        if isinstance(holder, Service) and _shows_backends(holder):
            return f"no backend of {holder.name} is up"
        return f"{holder.name} has no address"


def _holders(config: Config) -> Iterator[Service | Gateway]:
    """Yield who has a name, in an order of their own: of equal names, the first one counts."""
    yield from sorted(config.services, key=lambda service: service.name)
    yield from sorted(config.gateways, key=lambda gateway: gateway.name)


def _ancestors(name: str, origin: str) -> Iterator[str]:
    """Yield the names above one that are in the zone, the origin as well."""
    while name != origin:
        name = name.partition(".")[2]
        yield name


def _reversed(name: str) -> str:
    """Return the address that a name is the reverse of (RFC 1035 section 3.5, 3596 section 2.5)."""
    if name.endswith(".in-addr.arpa"):
        return ".".join(reversed(name.split(".")[:-2]))
    digits = name.removesuffix(".ip6.arpa").split(".")
    if not name.endswith(".ip6.arpa") or len(digits) != 32:
        return ""
    text = "".join(reversed(digits))
    try:
        return str(ip_address(":".join(text[at : at + 4] for at in range(0, len(text), 4))))
    except ValueError:
        return ""


def _is_name(text: str) -> bool:
    """Tell whether it fits into a message (RFC 1035 section 2.3.4)."""
    return len(text) <= 253 and all(0 < len(label) <= 63 for label in text.split("."))


def _chosen(records: list[Record], wanted: int) -> tuple[Record, ...]:
    """Pick those of the type; for ANY those of one type (RFC 8482 section 4.1)."""
    if wanted == Type.ANY and records:
        wanted = records[0].type
    return tuple(record for record in records if record.type == wanted)


def _additional(records: tuple[Record, ...]) -> tuple[Record, ...]:
    """Return the addresses of SRV records' targets, each once."""
    targets = (record.data for record in records if isinstance(record.data, Srv))
    every = (_address(srv.target, address) for srv in targets for address in srv.addresses)
    return tuple({(one.name, one.data): one for one in every}.values())


def _soa(origin: str) -> Record:
    data = Soa(mname=origin, rname=f"hostmaster.{origin}", minimum_s=NEGATIVE_TTL_S)
    return Record(origin, Type.SOA, data, NEGATIVE_TTL_S)


def _address(name: str, address: str) -> Record:
    return Record(name, Type.AAAA if ":" in address else Type.A, address)


def _addresses(holder: Service | Gateway, *, both: bool = False) -> tuple[str, ...]:
    """Return where to reach it from a node: cluster addresses are nearer than VIPs."""
    inside = holder.cluster_ips if isinstance(holder, Service) else ()
    return (*inside, *holder.vips) if both else inside or holder.vips


def _own_records(name: str, holder: Service | Gateway, down: Down) -> Iterator[Record]:
    if isinstance(holder, Service) and holder.external_name is not None:
        target = holder.external_name.removesuffix(".")
        if _is_name(target):
            yield Record(name, Type.CNAME, target)
        return
    addresses = _addresses(holder)
    if isinstance(holder, Service) and _shows_backends(holder):
        addresses = tuple({one.address: None for one in _usable(holder, down)})
    yield from (_address(name, address) for address in addresses)


def _shows_backends(service: Service) -> bool:
    return service.headless and not _addresses(service) and service.external_name is None


def _usable(service: Service, down: Down) -> Iterator[Backend]:
    """Yield the backends that get new connections."""
    for backend in service.backends:
        if backend.weight > 0 and (service.name, backend.id) not in down:
            yield backend


def _label(address: str) -> str:
    """Return the label of a backend.

    IPv6 in full, so that it neither begins with a hyphen nor has one in the third and fourth place,
    which is for IDNA (RFC 5890 section 2.3.1).
    """
    return ip_address(address).exploded.replace(":", "-").replace(".", "-")


def _labelled(label: str) -> str:
    """Return the address that a label is of; empty when it is no backend's."""
    try:
        address = str(ip_address(label.replace("-", "." if label.count("-") == 3 else ":")))
    except ValueError:
        return ""
    return address if _label(address) == label else ""


def _port_label(port: ServicePort) -> str:
    return f"_{port.name}._{port.protocol}".lower()


def _srv(service: Service, port: ServicePort, origin: str, down: Down) -> Iterator[Srv]:
    """Yield where a port is; `origin` is the service's name."""
    if _shows_backends(service):
        for backend in _usable(service, down):
            if backend.only in {None, port.name}:
                target = f"{_label(backend.address)}.{origin}"
                number = backend.port or port.target_port
                yield Srv(backend.weight, number, target, (backend.address,))
    elif service.external_name is None and (addresses := _addresses(service)):
        # There is nothing to choose from: RFC 2782 wants weight 0.
        yield Srv(0, port.port, origin, addresses)
