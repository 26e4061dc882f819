"""`piagent demo --once`: what a first user would try by hand, with what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable

from piagent.cli.demo.client import Client, Probe
from piagent.cli.demo.cluster import Cluster, DemoError
from piagent.cli.demo.site import Site

PROBE_BEFORE_S = 0.3
FAILOVER_TIMEOUT_S = 20.0


async def tour(site: Site, cluster: Cluster, say: Callable[[str], None]) -> None:
    """Route by host and path, balance TCP, kill the owner and time how long the VIP is silent."""
    client = Client(site.client_socket, site.vip)
    await _requests(site, client, say)
    await _failover(site, cluster, client, say)


async def _requests(site: Site, client: Client, say: Callable[[str], None]) -> None:
    say("")
    say("HTTP, by host and by path:")
    wanted = (
        ("api.demo", "/v1/x", 200, {place.name for place in site.backends[:2]}),
        ("www.demo", "/", 200, {place.name for place in site.backends[2:]}),
        ("api.demo", "/v2", 404, {""}),
        ("other.demo", "/", 404, {""}),
    )
    for host, path, status, backends in wanted:
        answer = await client.get(site.http_port, host, path)
        text = answer.text.removeprefix(f"{answer.status} ")
        say(f"  GET {f'http://{host}{path}':<22} -> {answer.status} {text}")
        if answer.status != status or answer.backend not in backends:
            raise DemoError(f"expected {status} from {' or '.join(sorted(backends)) or 'piagent'}")
    say("TCP, balanced over all backends:")
    names = [await client.hello(site.tcp_port) for _ in range(24)]
    counts = {name: names.count(name) for name in sorted(set(names))}
    say("  " + ", ".join(f"{name}: {count} connections" for name, count in counts.items()))
    if not set(names) <= {place.name for place in site.backends}:
        raise DemoError("an answer came from somebody who is no backend")


async def _failover(
    site: Site, cluster: Cluster, client: Client, say: Callable[[str], None]
) -> None:
    owner = await cluster.owner()
    say("")
    say(f"{owner} owns {site.vip}; killing its agent with SIGKILL while a client asks every 5 ms")
    probe = Probe(client, site.http_port, "www.demo")
    await probe.answered_since(time.monotonic() + PROBE_BEFORE_S, FAILOVER_TIMEOUT_S)
    await cluster.kill(owner)
    killed = time.monotonic()
    try:
        # An answer may still be on its way from before; one that comes a probe's time later is new.
        await probe.answered_since(killed + 0.3, FAILOVER_TIMEOUT_S)
    except TimeoutError:
        raise DemoError(f"the VIP did not answer within {FAILOVER_TIMEOUT_S:.0f} s") from None
    status = await cluster.wait_for(
        lambda status: status.vips[0].owner not in {None, owner}, "new owner"
    )
    gap = await probe.stop()
    say(f"  the VIP answers again from {status.vips[0].owner}")
    say(
        f"  failover gap: {gap.length_s * 1000:.0f} ms without an answer"
        f" ({gap.failed} of {gap.probes} probes failed)"
    )
