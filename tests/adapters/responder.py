"""A responder as a process: `python -m tests.adapters.responder ADDRESS PORT [CLUSTER]`.

Says "ready" once it answers.
"""

from __future__ import annotations

import asyncio
import sys

from piagent.adapters.dns import DnsServer
from piagent.core.model import Backend, Listen
from tests.waiting import until
from tests.zones import external, headless, service, zone

MANY = 60
"""More addresses than fit into 512 bytes."""
SERVICES = (
    service("web", cluster_ips=("10.0.0.5", "fd00::5")),
    headless("db", Backend(address="192.168.1.21"), Backend(address="192.168.1.22", port=90)),
    headless("many", *(Backend(address=f"10.1.0.{n}") for n in range(MANY))),
    external("alias", "web.home.piagent"),
)
ZONE = zone(*SERVICES)


async def main(address: str, port: int, cluster: str = "home") -> None:
    names = zone(*SERVICES, cluster=cluster)
    server = DnsServer(Listen(address=address, port=port), names.answer)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.run())
        await until(lambda: server.why_not is None)
        print("ready", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:]))
