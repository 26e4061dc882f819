"""`piagent demo`: a whole cluster on this one machine."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from piagent.cli.demo.cluster import Cluster
    from piagent.cli.demo.site import Site

HELP = "run agents, a broker and backends on this machine, and show what they do"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--nodes", type=int, default=3, help="agents to start (default: 3)")
    parser.add_argument("--once", action="store_true", help="run the built-in tour, then exit")
    parser.add_argument(
        "--loopback", action="store_true",
        help="use loopback addresses even as root, no network namespaces",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Run it; 0 when the tour went well or the user pressed Ctrl-C."""
    if not 2 <= args.nodes <= 9:
        print("piagent demo: --nodes must be 2 to 9", file=sys.stderr)
        return 2
    return asyncio.run(_demo(args.nodes, once=args.once, loopback=args.loopback))


def _say(text: str) -> None:
    print(text, flush=True)


async def _demo(nodes: int, *, once: bool, loopback: bool) -> int:
    from piagent.cli.demo.cluster import DemoError

    folder = Path(tempfile.mkdtemp(prefix="piagent-demo-"))
    work = asyncio.create_task(_work(nodes, folder, once=once, loopback=loopback))
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signum, work.cancel)
    try:
        await work
    except asyncio.CancelledError:
        pass  # Ctrl-C is how the demo ends
    except (DemoError, OSError) as error:
        print(f"piagent demo: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


async def _work(nodes: int, folder: Path, *, once: bool, loopback: bool) -> None:
    """Make the site, run the cluster on it, and take both down whatever happens."""
    from piagent.cli.demo.cluster import Cluster
    from piagent.cli.demo.site import LoopbackSite, NamespaceSite
    from piagent.cli.demo.tour import tour

    site: Site
    if os.geteuid() == 0 and not loopback:
        _say("network namespaces on a bridge, with a real VIP that moves")
        site = NamespaceSite(nodes)
    else:
        _say("loopback addresses (as root: network namespaces and a real VIP)")
        site = LoopbackSite(nodes)
    cluster = Cluster(site, folder, _say)
    try:
        await cluster.start()
        if once:
            await tour(site, cluster, _say)
        else:
            _explain(site, cluster, await cluster.owner())
            await asyncio.Event().wait()
    finally:
        _say("stopping")
        await cluster.stop()
        site.close()


def _explain(site: Site, cluster: Cluster, owner: str) -> None:
    """What to try, each line to be pasted into another terminal."""
    prefix, web = site.client_prefix(), f"http://{site.vip}:{site.http_port}"
    _say(f"""
{owner} owns the VIP {site.vip}. In another terminal:
  HTTP by host and path   {prefix}curl -H 'Host: api.demo' {web}/v1/x
                          {prefix}curl -H 'Host: www.demo' {web}/
  TCP over all backends   {prefix}nc {site.vip} {site.tcp_port}
  the cluster             {sys.executable} -m piagent.cli status --socket {cluster.socket("pi-1")}
  a failover              kill -9 {cluster.pid(owner)}
Ctrl-C ends everything.""")
