"""The demo's broker, on a host of its own: `python -m piagent.cli.demo.broker ADDRESS PORT`.

It says "ready" when it answers. Apart from the agents, so that any of them may be killed.
"""

from __future__ import annotations

import asyncio
import signal
import sys

from piagent.adapters.embedded_broker import BrokerError, EmbeddedBroker
from piagent.core.model import Listen


async def main(address: str, port: int) -> int:
    """Run until SIGTERM; 1 when there is no broker to run."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    try:
        async with EmbeddedBroker(Listen(address=address, port=port)):
            print("ready", flush=True)
            await stop.wait()
    except BrokerError as error:
        print(error, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1], int(sys.argv[2]))))
