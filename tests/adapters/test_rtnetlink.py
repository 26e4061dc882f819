"""Questions to this host's kernel that change nothing; and what asking costs."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest

from piagent.adapters.rtnetlink import RTM_GETADDR, RTM_NEWADDR, Rtnetlink, ifaddrmsg

REFUSED = r"Invalid argument: ipv4: Invalid prefix length|Operation not permitted"  # without root


def impossible_address() -> ifaddrmsg:
    message = ifaddrmsg()
    message["family"] = 2
    message["prefixlen"] = 77
    message["index"] = 1
    message["attrs"] = [("IFA_LOCAL", "127.3.3.3")]
    return message


def test_an_interface_is_found_by_its_name() -> None:
    with Rtnetlink() as rtnetlink:
        link = rtnetlink.link("lo")
    assert (link.name, link.up, link.mac) == ("lo", True, bytes(6))


def test_an_interface_that_is_not_there_is_enodev() -> None:
    with Rtnetlink() as rtnetlink, pytest.raises(OSError, match="No such device") as raised:
        rtnetlink.link("none7")
    assert raised.value.errno == errno.ENODEV


def test_a_socket_answers_again_after_an_error() -> None:
    with Rtnetlink() as rtnetlink:
        for _ in range(3):
            with pytest.raises(OSError, match=REFUSED):
                rtnetlink.change(impossible_address(), RTM_NEWADDR)
            found = {
                entry.get_attr("IFA_ADDRESS") for entry in rtnetlink.dump(ifaddrmsg(), RTM_GETADDR)
            }
            assert "127.0.0.1" in found


def test_a_refusal_carries_the_kernels_own_words() -> None:
    with Rtnetlink() as rtnetlink, pytest.raises(OSError, match=REFUSED):
        rtnetlink.change(impossible_address(), RTM_NEWADDR)


def test_a_name_too_long_for_an_interface_is_enodev_and_not_a_shorter_one() -> None:
    with Rtnetlink() as rtnetlink, pytest.raises(OSError, match="No such device"):
        rtnetlink.link("lo" + "\0" * 20)


def test_only_the_needed_parts_of_pyroute2_are_loaded_and_the_whole_stays_importable() -> None:
    script = (
        "import sys, piagent.adapters.netlink\n"
        "parts = [name for name in sys.modules if name.startswith('pyroute2')]\n"
        "assert 3 <= len(parts) <= 8, parts\n"
        "import pyroute2\n"
        "pyroute2.IPRoute, pyroute2.NDB\n"
        "from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg\n"
        "from piagent.adapters import rtnetlink\n"
        "assert ifaddrmsg is rtnetlink.ifaddrmsg\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
