"""A node that speaks BGP, for tests: `bgp_node.py`, in the namespace of its host.

It reads what to do as lines of JSON, `{"configure": …}` and `{"announce": […]}`, and prints each
session's state as one. `--without-setpriv`: as on a host that does not have it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys

import msgspec

from piagent.adapters.bgp import ExabgpSpeaker
from piagent.core.bgp import BgpRoute
from piagent.core.model import Bgp
from piagent.ports import BgpSession


async def main() -> None:
    logging.basicConfig(level="INFO", stream=sys.stderr)
    loop = asyncio.get_running_loop()
    speaker = ExabgpSpeaker()
    running = asyncio.create_task(speaker.run(_print))
    loop.add_signal_handler(signal.SIGTERM, running.cancel)
    obeying = asyncio.create_task(_obey(speaker))
    with contextlib.suppress(asyncio.CancelledError):
        await running
    obeying.cancel()


def _print(session: BgpSession) -> None:
    print(msgspec.json.encode(session).decode(), flush=True)


async def _obey(speaker: ExabgpSpeaker) -> None:
    orders = asyncio.StreamReader(limit=1 << 20)
    protocol = asyncio.StreamReaderProtocol(orders)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    while line := await orders.readline():
        order = json.loads(line)
        if "configure" in order:
            speaker.configure(msgspec.convert(order["configure"], Bgp | None))
        else:
            speaker.announce(frozenset(msgspec.convert(order["announce"], list[BgpRoute])))


if __name__ == "__main__":
    if "--without-setpriv" in sys.argv:
        os.environ["PATH"] = "/nonexistent"
    asyncio.run(main())
