"""`piagent release-addresses`: removes what an agent left behind in the kernel."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Final

from piagent.cli import admin
from piagent.cli.output import WRONG_INPUT, Failure

if TYPE_CHECKING:
    import argparse

    from piagent.adapters.cluster_fence import ClusterFence
    from piagent.adapters.fence import KernelFence
    from piagent.guardian import Address

PATIENCE_S: Final = 1.0
ANSWER_TIMEOUT_S: Final = 2.0

_NO_NFTABLES: Final = {errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL}
"""What a kernel without it says; it has no table either."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--interface", metavar="NAME", help="only this one (default: all)")
    where.add_argument(
        "-c", "--config", metavar="FILE", help="only the interface that the node's file names"
    )
    parser.add_argument("--force", action="store_true", help="even if an agent is running here")


def run(args: argparse.Namespace) -> int:
    """Remove them; 0 when none is left, 1 when one stays or an agent is running."""
    interface, admin_socket = _where(args)
    if not args.force:
        _refuse_while_running(admin_socket)
    index = None if interface is None else _index(interface)
    for address in _removed(index):
        print(f"{_name(address.index)}: removed {address}")
    _remove_fences()
    _undo_dsr(admin_socket)
    return 0


def _where(args: argparse.Namespace) -> tuple[str | None, str]:
    """The interface, None for all of them, and the agent's socket."""
    if args.config is None:
        return args.interface, admin.DEFAULT_SOCKET
    from piagent.config import ConfigError, load

    try:
        config = load(args.config).config
    except ConfigError as error:
        raise Failure(str(error), WRONG_INPUT) from None
    return config.node.interface, config.admin_socket


def _refuse_while_running(admin_socket: str) -> None:
    """An agent that hangs does not answer: its addresses may be removed."""
    with socket.socket(socket.AF_UNIX) as agent:
        agent.settimeout(ANSWER_TIMEOUT_S)
        try:
            agent.connect(admin_socket)
            agent.sendall(b"GET /healthz HTTP/1.1\r\nHost: piagent\r\nConnection: close\r\n\r\n")
            answered = bool(agent.recv(1))
        except OSError:
            return
    if answered:
        raise Failure(
            f"an agent is running here ({admin_socket}) and would lose its VIPs: stop it, which"
            " releases them in good order, or use --force"
        )


def _index(interface: str) -> int:
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        there = ", ".join(name for _, name in socket.if_nameindex())
        raise Failure(f"there is no interface {interface} (there are: {there})") from None


def _removed(index: int | None) -> list[Address]:
    """What was removed from the interface, or from all of them."""
    from piagent import guardian

    try:
        return guardian.remove(
            lambda address: address.marked and index in {None, address.index}, PATIENCE_S
        )
    except OSError as error:
        why = error.strerror or error
        raise Failure(f"not removed: {why}; try as root or with CAP_NET_ADMIN") from None


def _remove_fences() -> None:
    """Not before the addresses have gone: they are what keeps them silent."""
    from piagent import guardian
    from piagent.adapters import cluster_fence, fence_table
    from piagent.adapters.cluster_fence import ClusterFence
    from piagent.adapters.fence import KernelFence
    from piagent.adapters.nftables import NFPROTO_ARP, NFPROTO_INET, NFPROTO_NETDEV

    left = {_name(address.index) for address in guardian.addresses() if address.marked}
    if "lo" not in left:
        places = {NFPROTO_INET: ("inet", "postrouting"), NFPROTO_ARP: ("arp", "output")}
        _remove_tables(ClusterFence(), cluster_fence.TABLE, places)
    if not left:
        _remove_tables(KernelFence(), fence_table.TABLE, {NFPROTO_NETDEV: ("netdev", "ingress")})


def _undo_dsr(admin_socket: str) -> None:
    """What a backend of `dsr` services needs, when it has no VIP any more."""
    from piagent import guardian
    from piagent.adapters.dsr_backend import DsrBackend, settings_notes

    if all(_name(address.index) != "lo" for address in guardian.addresses() if address.marked):
        DsrBackend(settings_notes(admin_socket)).undo()


def _remove_tables(
    its: KernelFence | ClusterFence, table: str, places: dict[int, tuple[str, str]]
) -> None:
    """A fence's tables; `places`: by number, each family's name and a chain that is there."""
    from piagent.adapters.fence import why
    from piagent.adapters.nftables import Nftables

    try:
        with Nftables() as kernel:
            there = [
                name
                for family, (name, chain) in places.items()
                if kernel.has_chain(table, chain, family)
            ]
        its.remove()
    except OSError as error:
        if error.errno not in _NO_NFTABLES:
            raise Failure(f"the nftables table {table}: {why(error, '')}") from None
    else:
        for family in there:
            print(f"removed the nftables table {family} {table}")


def _name(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"interface {index}"  # gone meanwhile
