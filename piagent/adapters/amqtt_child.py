"""amqtt as a process of its own: `python -m piagent.adapters.amqtt_child ADDRESS PORT`."""

from __future__ import annotations

import asyncio
import sys

from amqtt.broker import Broker


async def _serve(address: str, port: str) -> None:
    host = f"[{address}]" if ":" in address else address
    anonymous = "amqtt.plugins.authentication.AnonymousAuthPlugin"
    broker = Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"{host}:{port}"}},
            "plugins": {anonymous: {"allow_anonymous": True}},
        }
    )
    await broker.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(*sys.argv[1:3]))
