"""A small network of namespaces on one bridge, for `piagent demo` and the tests; needs root.

The bridge has a namespace of its own, so this host's own network is never touched: all it sees are
names in /run/netns (`ip netns` lists them). Names carry the process id of who made them, by which
a later run finds and removes what a killed one left.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_interface
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from piagent.adapters.rtnetlink import (
    IFF_UP,
    NLM_F_CREATE,
    NLM_F_EXCL,
    RTM_NEWADDR,
    RTM_NEWLINK,
    Rtnetlink,
    ifaddrmsg,
    parts_of_pyroute2,
)

with parts_of_pyroute2():
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

INTERFACE = "eth0"
"""What every host calls its one interface."""

_NAMES = Path("/run/netns")
_HERE = Path("/proc/thread-self/ns/net")
_NO_DAD = 0x02
_CLONE_NEWNET = 0x40000000
_MS_BIND, _MS_REC, _MS_SHARED, _MNT_DETACH = 0x1000, 0x4000, 0x100000, 0x2
_END_S = 5.0

_libc = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """A named network namespace."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = _NAMES / name

    def create(self) -> None:
        """Make it, empty, with only `lo`, which is up."""
        _prepare_names()
        self.path.touch(exist_ok=False)
        try:
            _in_new_thread(self._unshare_and_bind)
            with self.entered():
                _set_up("lo", up=True)
        except BaseException:
            self.destroy()
            raise

    def destroy(self) -> None:
        """End every process in it, then remove it; nothing happens when it is not there."""
        if not self.path.exists():
            return
        _end(self.processes())
        _libc.umount2(os.fsencode(self.path), _MNT_DETACH)
        self.path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is inside meanwhile: sockets made there stay there. Never await."""
        with _HERE.open("rb") as outside, self.path.open("rb") as inside:
            _check(_libc.setns(inside.fileno(), _CLONE_NEWNET), "setns", self.name)
            try:
                yield
            finally:
                _check(_libc.setns(outside.fileno(), _CLONE_NEWNET), "setns", "back")

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` inside, as the very process that is started."""
        return ["nsenter", f"--net={self.path}", "--", *argv]

    def processes(self) -> list[int]:
        """The ids of the processes inside."""
        inside = self.path.stat()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):  # it ended meanwhile
                    its = (entry / "ns/net").stat()
                    if (its.st_dev, its.st_ino) == (inside.st_dev, inside.st_ino):
                        found.append(int(entry.name))
        return found

    def _unshare_and_bind(self) -> None:
        _check(_libc.unshare(_CLONE_NEWNET), "unshare", self.name)
        source, target = os.fsencode(_HERE), os.fsencode(self.path)
        _check(_libc.mount(source, target, b"none", _MS_BIND, None), "mount", self.name)


class Host(Namespace):
    """A namespace with a cable to the bridge."""

    def __init__(self, name: str, port: str, bridge: Namespace) -> None:
        super().__init__(name)
        self.port = port
        """The name of the cable's far end."""
        self.bridge = bridge
        """Where that is."""

    def add_address(self, address: str) -> None:
        """Configure `address/prefix` on its interface."""
        interface = ip_interface(address)
        message = ifaddrmsg()
        message["family"] = socket.AF_INET if interface.version == 4 else socket.AF_INET6
        message["prefixlen"] = interface.network.prefixlen
        message["flags"] = _NO_DAD if interface.version == 6 else 0
        ip = str(interface.ip)
        message["attrs"] = [("IFA_LOCAL", ip), ("IFA_ADDRESS", ip)]
        with self.entered(), Rtnetlink() as rtnetlink:
            message["index"] = rtnetlink.link(INTERFACE).index
            rtnetlink.change(message, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL)

    def pull_cable(self) -> None:
        """The far end goes down: the host sees no carrier, the others see it vanish."""
        with self.bridge.entered():
            _set_up(self.port, up=False)

    def plug_cable(self) -> None:
        """And up again."""
        with self.bridge.entered():
            _set_up(self.port, up=True)


class Network:
    """Hosts on one bridge; a context manager that leaves nothing behind."""

    def __init__(self, tag: str = "piagent") -> None:
        self._prefix = f"{tag}-{os.getpid()}-{next(_counter)}-"
        self._bridge = Namespace(f"{self._prefix}lan")
        self.hosts: dict[str, Host] = {}
        clean_up(tag)

    def __enter__(self) -> Self:
        self._bridge.create()
        try:
            with self._bridge.entered(), Rtnetlink() as rtnetlink:
                _add_link(rtnetlink, "bridge", [("IFLA_LINKINFO", _info("bridge"))])
                _set_up("bridge", up=True)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def add_host(self, name: str, *addresses: str) -> Host:
        """A new host with `address/prefix` each on its `eth0`, plugged in."""
        port = f"to{len(self.hosts)}"
        host = Host(f"{self._prefix}{name}", port, self._bridge)
        host.create()
        self.hosts[name] = host
        with self._bridge.path.open("rb") as bridge, host.entered(), Rtnetlink() as rtnetlink:
            peer = {"attrs": [("IFLA_IFNAME", port), ("IFLA_NET_NS_FD", bridge.fileno())]}
            pair = _info("veth", {"attrs": [("VETH_INFO_PEER", peer)]})
            _add_link(rtnetlink, INTERFACE, [("IFLA_LINKINFO", pair)])
            _set_up(INTERFACE, up=True)
        with self._bridge.entered():
            _set_up(port, up=True, master="bridge")
        for address in addresses:
            host.add_address(address)
        return host

    def close(self) -> None:
        """End all processes inside and remove all namespaces."""
        for host in self.hosts.values():
            host.destroy()
        self._bridge.destroy()
        self.hosts.clear()


def clean_up(tag: str) -> None:
    """Remove the namespaces of former runs whose process is gone, and what still runs in them."""
    if not _NAMES.is_dir():
        return
    for path in _NAMES.glob(f"{tag}-*-*-*"):
        owner = path.name.removeprefix(f"{tag}-").split("-")[0]
        if owner.isdigit() and not Path("/proc", owner).exists():
            Namespace(path.name).destroy()


@functools.cache
def why_not() -> str | None:
    """Why namespaces cannot be used here, or None when they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    probe = Namespace(f"piagent-{os.getpid()}-0-probe")  # named so that clean_up finds it
    try:
        probe.create()
        subprocess.run(probe.command(["true"]), check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"network namespaces do not work here: {error}"
    finally:
        probe.destroy()
    return None


def _numbers() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1


_counter = _numbers()


def _info(kind: str, data: Any = None) -> Any:
    attributes: list[Any] = [("IFLA_INFO_KIND", kind)]
    if data is not None:
        attributes.append(("IFLA_INFO_DATA", data))
    return {"attrs": attributes}


def _add_link(rtnetlink: Rtnetlink, name: str, attributes: list[Any]) -> None:
    message = ifinfmsg()
    message["attrs"] = [("IFLA_IFNAME", name), *attributes]
    rtnetlink.change(message, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL)


def _set_up(name: str, *, up: bool, master: str | None = None) -> None:
    with Rtnetlink() as rtnetlink:
        message = ifinfmsg()
        message["index"] = rtnetlink.link(name).index
        message["flags"] = IFF_UP if up else 0
        message["change"] = IFF_UP
        if master is not None:
            message["attrs"] = [("IFLA_MASTER", rtnetlink.link(master).index)]
        rtnetlink.change(message, RTM_NEWLINK)


def _prepare_names() -> None:
    """Make /run/netns as `ip netns` does: a mount point of its own, shared."""
    _NAMES.mkdir(mode=0o755, exist_ok=True)
    path = os.fsencode(_NAMES)
    if _libc.mount(b"", path, b"none", _MS_SHARED | _MS_REC, None) == 0:
        return
    if ctypes.get_errno() != errno.EINVAL:
        _check(-1, "mount", str(_NAMES))
    _check(_libc.mount(path, path, b"none", _MS_BIND | _MS_REC, None), "mount", str(_NAMES))
    _check(_libc.mount(b"", path, b"none", _MS_SHARED | _MS_REC, None), "mount", str(_NAMES))


def _check(result: int, what: str, name: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what} {name}: {os.strerror(number)}")


def _in_new_thread(work: Callable[[], None]) -> None:
    """Run `work` in a thread of its own, whose namespace ends with it; raise what it raises."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised again below
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


def _end(processes: list[int]) -> None:
    """SIGKILL, and wait until they are gone (or only wait for their parent)."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    deadline = time.monotonic() + _END_S
    while any(_runs(process) for process in processes) and time.monotonic() < deadline:
        time.sleep(0.005)


def _runs(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
