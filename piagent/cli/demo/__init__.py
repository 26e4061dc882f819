"""`piagent demo`: a whole cluster on this one machine."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from piagent.cli.demo.cluster import Cluster
    from piagent.cli.demo.site import Site

FOLDER = "piagent-demo-"
"""How the names of the demo's temporary folders begin; the process id follows."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What ends the demo."""
INTERRUPTED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--nodes", type=int, default=3, help="agents to start (default: 3)")
    parser.add_argument("--once", action="store_true", help="run the built-in tour, then exit")
    parser.add_argument(
        "--loopback", action="store_true",
        help="use loopback addresses even as root, no network namespaces",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Run it; 0 when the tour went well, or when the user ended the demo that has no end."""
    if not 2 <= args.nodes <= 9:
        print("piagent demo: --nodes must be 2 to 9", file=sys.stderr)
        return 2
    return asyncio.run(_demo(args.nodes, once=args.once, loopback=args.loopback))


def _say(text: str) -> None:
    print(text, flush=True)


async def _demo(nodes: int, *, once: bool, loopback: bool) -> int:
    """Make the site, run the cluster on it, and take both down whatever happens.

    A signal ends the demo in order; another one while it stops spares the goodbyes.
    """
    from piagent.cli.demo.cluster import Cluster, DemoError
    from piagent.cli.demo.site import make_site

    asked = asyncio.Event()
    for signum in SIGNALS:
        asyncio.get_running_loop().add_signal_handler(signum, asked.set)
    folder = _fresh_folder()
    try:
        with contextlib.closing(make_site(nodes, loopback=loopback, say=_say)) as site:
            cluster = Cluster(site, folder, _say)
            try:
                await _until(asked, _show(site, cluster, once=once))
            finally:
                interrupted = asked.is_set()
                asked.clear()
                with contextlib.suppress(OSError):  # nobody may be reading any more
                    _say("stopping")
                await _until(asked, cluster.stop())
                await cluster.kill_all()
    except (DemoError, OSError) as error:
        print(f"piagent demo: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _hear_no_more_signals()
    return INTERRUPTED if once and interrupted else 0


def _hear_no_more_signals() -> None:
    """All is down. asyncio closes the descriptor that signals are written to before it lets go."""
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)


async def _until(asked: asyncio.Event, work: Coroutine[None, None, None]) -> None:
    """Do `work`, or as much of it as is done when a signal comes."""
    task, signalled = asyncio.create_task(work), asyncio.create_task(asked.wait())
    await asyncio.wait({task, signalled}, return_when=asyncio.FIRST_COMPLETED)
    for each in (task, signalled):
        each.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _fresh_folder() -> Path:
    """Make a folder for files, logs and sockets; remove those that killed demos left."""
    for old in Path(tempfile.gettempdir()).glob(f"{FOLDER}*-*"):
        owner = old.name.removeprefix(FOLDER).split("-")[0]
        if owner.isdigit() and not Path("/proc", owner).exists():
            shutil.rmtree(old, ignore_errors=True)  # follows no symbolic link
    return Path(tempfile.mkdtemp(prefix=f"{FOLDER}{os.getpid()}-"))


async def _show(site: Site, cluster: Cluster, *, once: bool) -> None:
    from piagent.cli.demo.tour import tour

    await cluster.start()
    if once:
        await tour(site, cluster, _say)
    else:
        owner = await cluster.owner()
        _explain(site, cluster, owner)
        await cluster.watch(owner)


def _explain(site: Site, cluster: Cluster, owner: str) -> None:
    """What to try, each line to be pasted into another terminal."""
    sudo = "sudo " if "SUDO_UID" in os.environ else ""  # that terminal will be the user's own
    other = next(place.name for place in site.nodes if place.name != owner)
    prefix, web = sudo + site.client_prefix(), f"http://{site.vip}:{site.http_port}"
    _say(f"""
{owner} owns the VIP {site.vip}. In another terminal:
  HTTP by host and path   {prefix}curl -H 'Host: api.demo' {web}/v1/x
                          {prefix}curl -H 'Host: www.demo' {web}/
  TCP over all backends   {prefix}curl -sm1 telnet://{site.vip}:{site.tcp_port}
  the cluster             {sudo}{_piagent()} status --socket {cluster.socket(other)}
  a failover              {sudo}kill -9 {cluster.pid(owner)}
Ctrl-C ends everything.""")


def _piagent() -> str:
    """How to call piagent from any folder: by its script, or as a clone that is not installed."""
    script = Path(sys.executable).with_name("piagent")
    if script.exists():
        return shlex.quote(str(script))
    clone = f"PYTHONPATH={Path(__file__).parents[3]}"
    return shlex.join(["env", clone, sys.executable, "-m", "piagent.cli"])
