"""ARP settings of interfaces, on a real kernel: had for a time, and then as they were."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from piagent.adapters import interface_settings, netns
from piagent.adapters.interface_settings import ARP_ANNOUNCE, ARP_IGNORE, InterfaceSettings, unfit
from tests.adapters.two_hosts import run

REASON = netns.why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))


@pytest.fixture
def host() -> Iterator[netns.Host]:
    with netns.Network("pa-settings") as network:
        yield network.add_host("a", "10.9.0.1/24")


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "settings.json"


def values(host: netns.Host, interface: str = "eth0") -> tuple[int, int]:
    """arp_ignore and arp_announce, as sysctl shows them."""
    names = [f"net.ipv4.conf.{interface}.{name}" for name in ("arp_ignore", "arp_announce")]
    ignore, announce = run(host, "sysctl", "-n", *names).split()
    return int(ignore), int(announce)


def put(host: netns.Host, ignore: int, announce: int, interface: str = "eth0") -> None:
    for name, value in (("arp_ignore", ignore), ("arp_announce", announce)):
        run(host, "sysctl", "-qw", f"net.ipv4.conf.{interface}.{name}={value}")


@pytest.mark.parametrize("before", [(0, 0), (0, 1), (3, 0)])
def test_what_was_there_comes_back(host: netns.Host, notes: Path, before: tuple[int, int]) -> None:
    put(host, *before)
    with host.entered():
        settings = InterfaceSettings(notes)
        assert len(unfit()) == 2
        settings.hold()
        settings.hold()
        assert unfit() == []
        assert values(host) == (1, 2)
        settings.release()
        assert values(host) == before
    assert not notes.exists()


def test_nothing_is_touched_where_it_is_good_already(host: netns.Host, notes: Path) -> None:
    put(host, 2, 2)
    with host.entered():
        settings = InterfaceSettings(notes)
        settings.hold()
        assert values(host) == (2, 2)
        assert not notes.exists()
        settings.release()
    assert values(host) == (2, 2)


def test_what_holds_for_all_interfaces_holds_for_each(host: netns.Host, notes: Path) -> None:
    put(host, 1, 2, "all")
    with host.entered():
        InterfaceSettings(notes).hold()
    assert values(host) == (0, 0)


def test_after_a_crash_the_next_life_puts_back_what_the_first_one_found(
    host: netns.Host, notes: Path
) -> None:
    put(host, 0, 1)
    with host.entered():
        InterfaceSettings(notes).hold()
        second = InterfaceSettings(notes)
        second.hold()
        InterfaceSettings(notes).release()
    assert values(host) == (0, 1)


def test_what_somebody_changed_meanwhile_stays(host: netns.Host, notes: Path) -> None:
    with host.entered():
        settings = InterfaceSettings(notes)
        settings.hold()
        put(host, 2, 2)
        settings.release()
    assert values(host) == (2, 0)


def test_an_interface_that_comes_later_gets_them_and_one_that_went_is_no_trouble(
    host: netns.Host, notes: Path
) -> None:
    with host.entered():
        settings = InterfaceSettings(notes)
        settings.hold()
        run(host, "ip", "link", "add", "late", "type", "veth", "peer", "name", "peer")
        settings.hold()
        assert values(host, "late") == (1, 2)
        run(host, "ip", "link", "del", "late")
        settings.release()
    assert values(host) == (0, 0)


def test_an_interface_that_goes_just_then_spares_the_others(
    host: netns.Host, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(host, "ip", "link", "add", "aaa", "type", "veth", "peer", "name", "peer")
    really = interface_settings.set_ipv4

    def late(interface: str, wanted: dict[int, int]) -> None:
        if interface == "aaa":
            run(host, "ip", "link", "del", "aaa")
        if interface != "peer":
            really(interface, wanted)

    monkeypatch.setattr(interface_settings, "set_ipv4", late)
    with host.entered():
        InterfaceSettings(notes).hold()
    assert values(host) == (1, 2)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"namespace": 1}', '{"namespace": 7, "x": 1}'])
def test_notes_that_are_no_notes_change_nothing(host: netns.Host, notes: Path, text: str) -> None:
    notes.write_text(text)
    with host.entered():
        InterfaceSettings(notes).release()
    assert values(host) == (0, 0)


def test_notes_of_another_network_namespace_are_not_ours(host: netns.Host, notes: Path) -> None:
    text = {"namespace": 1, "interfaces": {"eth0": {"arp_ignore": 5, "arp_announce": 1}}}
    notes.write_text(json.dumps(text))
    put(host, 1, 2)
    with host.entered():
        InterfaceSettings(notes).release()
    assert values(host) == (1, 2)


def test_the_notes_are_there_before_anything_is_changed(
    host: netns.Host, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(interface: str, wanted: dict[int, int]) -> None:
        noted = json.loads(notes.read_text())["interfaces"]
        assert noted == {"eth0": {"arp_ignore": 0, "arp_announce": 0}}
        assert wanted == {ARP_IGNORE: 1, ARP_ANNOUNCE: 2}
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(interface_settings, "set_ipv4", refused)
    with host.entered(), pytest.raises(PermissionError):
        InterfaceSettings(notes).hold()
