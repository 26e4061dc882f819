"""What the names of a file must be to the DNS, when the file has a responder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from piagent.config.problems import key_path
from piagent.core.plan import EVERYWHERE

if TYPE_CHECKING:
    from piagent.config.problems import Report
    from piagent.config.schema import File


def check_dns(file: File, report: Report) -> None:
    """Check where it listens, and what it cannot say."""
    if file.dns is None:
        return
    listen = file.dns.listen
    if listen is not None and listen.address in EVERYWHERE:
        what = "answers would leave from another address than the one that was asked"
        report.error(("dns", "listen"), what, 'write one address: "127.0.0.55:53"')
    for i, service in enumerate(file.service):
        for j, port in enumerate(service.ports):
            if listen is not None and port.node_port == listen.port:
                node_port = key_path(("service", i, "ports", j, "node_port"))
                what = f"port {listen.port} of every address is {node_port}"
                report.error(("dns", "listen"), what, "another port")
    if ".." in file.cluster.name:
        what = f'the DNS has no name for "{file.cluster.name}": nothing stands between its dots'
        report.error(("cluster", "name"), what, "another name, or no [dns]")
    for kind in ("service", "gateway"):
        first: dict[str, int] = {}
        for i, table in enumerate(getattr(file, kind)):
            path = (kind, i, "name")
            if ".." in table.name:
                what = "the DNS has no name for it: nothing stands between its dots"
                report.warn(path, what, "another name, to be found by it")
            other = first.setdefault(table.name.lower(), i)
            if table.name and table.name != getattr(file, kind)[other].name:
                what = f"to the DNS it is the same as {key_path((kind, other, 'name'))}"
                report.warn(path, what, "only one of them is found; another name")
