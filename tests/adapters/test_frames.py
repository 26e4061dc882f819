"""Frames of ARP and neighbour discovery, byte by byte, and what is read out of them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piagent.adapters.frames import (
    Claim,
    arp_frame,
    arp_question_frame,
    claim,
    frames,
    internet_checksum,
    mac_text,
    neighbour_advertisement_frame,
    neighbour_solicitation_frame,
    probe_frame,
)

MAC = bytes.fromhex("b827eb010203")
OTHER = bytes.fromhex("020000000002")
BROADCAST = bytes.fromhex("ffffffffffff")


def test_an_arp_request_is_byte_exact() -> None:
    assert arp_frame(MAC, IPv4Address("192.168.1.241"), reply=False).hex(" ") == (
        "ff ff ff ff ff ff b8 27 eb 01 02 03 08 06 "  # Ethernet
        "00 01 08 00 06 04 00 01 "  # Ethernet, IPv4, 6, 4, request
        "b8 27 eb 01 02 03 c0 a8 01 f1 "  # sender
        "00 00 00 00 00 00 c0 a8 01 f1"  # target
    )


def test_an_arp_reply_is_byte_exact() -> None:
    assert arp_frame(MAC, IPv4Address("192.168.1.241"), reply=True).hex(" ") == (
        "ff ff ff ff ff ff b8 27 eb 01 02 03 08 06 "
        "00 01 08 00 06 04 00 02 "
        "b8 27 eb 01 02 03 c0 a8 01 f1 "
        "b8 27 eb 01 02 03 c0 a8 01 f1"
    )


def test_a_neighbour_advertisement_is_byte_exact() -> None:
    # Source, destination, length, next header, type, flags, target, option: by 16 bits.
    total = 0xFD00 + 0xF1 + 0xFF02 + 0x1 + 0x20 + 0x3A + 0x8800 + 0x2000 + 0xFD00 + 0xF1
    total += 0x0201 + 0xB827 + 0xEB01 + 0x0203
    checksum = (total & 0xFFFF) + (total >> 16) ^ 0xFFFF
    assert (
        neighbour_advertisement_frame(MAC, IPv6Address("fd00::f1")).hex()
        == (
            "333300000001b827eb01020386dd"
            "60000000" + "0020" + "3a" + "ff"  # 32 bytes, ICMPv6, hop limit 255
            "fd0000000000000000000000000000f1"
            "ff020000000000000000000000000001"
            "8800" + f"{checksum:04x}" + "20000000"
            "fd0000000000000000000000000000f1"
            "0201b827eb010203"
        )
    )


def test_an_ipv4_address_is_announced_by_a_request_and_a_reply() -> None:
    address = IPv4Address("192.168.1.240")
    request, reply = (arp_frame(MAC, address, reply=kind) for kind in (False, True))
    assert frames(MAC, str(address)) == (request, reply)


def test_an_ipv6_address_is_announced_by_one_advertisement() -> None:
    address = IPv6Address("fd00::f1")
    assert frames(MAC, str(address)) == (neighbour_advertisement_frame(MAC, address),)


def test_the_checksum_is_that_of_rfc_1071() -> None:
    assert internet_checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2 ^ 0xFFFF
    assert internet_checksum(b"") == 0xFFFF
    assert internet_checksum(b"\x01") == 0xFEFF


def test_an_arp_probe_names_no_sender() -> None:
    assert probe_frame(MAC, "192.168.1.241").hex(" ") == (
        "ff ff ff ff ff ff b8 27 eb 01 02 03 08 06 "
        "00 01 08 00 06 04 00 01 "
        "b8 27 eb 01 02 03 00 00 00 00 "
        "00 00 00 00 00 00 c0 a8 01 f1"
    )


def test_a_question_to_one_host_is_byte_exact() -> None:
    frame = arp_question_frame(MAC, IPv4Address("10.0.0.1"), IPv4Address("10.0.0.9"), OTHER)
    assert frame.hex(" ") == (
        "02 00 00 00 00 02 b8 27 eb 01 02 03 08 06 "
        "00 01 08 00 06 04 00 01 "
        "b8 27 eb 01 02 03 0a 00 00 09 "
        "00 00 00 00 00 00 0a 00 00 01"
    )


def sums_to_zero(frame: bytes) -> bool:
    """RFC 1071: with its own checksum in it, the sum over packet and pseudo header is 0."""
    packet = frame[54:]
    pseudo = frame[22:54] + len(packet).to_bytes(4, "big") + b"\0\0\0\x3a"
    return internet_checksum(pseudo + packet) == 0


def test_a_probe_for_an_ipv6_address_is_that_of_rfc_4862() -> None:
    frame = probe_frame(MAC, "fd00::12:34f1")
    assert sums_to_zero(frame)
    assert frame[:56].hex() + frame[58:].hex() == (
        "3333ff1234f1b827eb01020386dd"
        "60000000" + "0018" + "3a" + "ff"
        "00000000000000000000000000000000"
        "ff0200000000000000000001ff1234f1"
        "8700" + "00000000"
        "fd0000000000000000000000001234f1"
    )


def test_a_solicitation_to_one_host_says_who_asks() -> None:
    target, source = IPv6Address("fe80::2"), IPv6Address("fe80::9")
    frame = neighbour_solicitation_frame(MAC, target, source, OTHER)
    assert sums_to_zero(frame)
    assert frame[:6] == OTHER
    assert frame[22:54] == source.packed + target.packed
    assert frame[62:] == target.packed + bytes([1, 1]) + MAC


def test_an_advertisement_to_one_host_goes_to_its_addresses() -> None:
    address, its = IPv6Address("fd00::f1"), IPv6Address("fd00::2")
    frame = neighbour_advertisement_frame(MAC, address, (OTHER, its))
    assert sums_to_zero(frame)
    assert frame[:6] == OTHER
    assert frame[38:54] == its.packed
    assert frame[58:62].hex() == "20000000"


@pytest.mark.parametrize("reply", [False, True])
def test_both_kinds_of_arp_claim_the_senders_address(reply: bool) -> None:
    frame = arp_frame(MAC, IPv4Address("10.0.0.9"), reply=reply)
    assert claim(frame) == Claim("10.0.0.9", MAC, BROADCAST, reply)
    assert claim(frame + bytes(18)) == claim(frame)  # as Ethernet pads it


def test_an_advertisement_claims_its_target_for_where_its_option_says() -> None:
    frame = neighbour_advertisement_frame(MAC, IPv6Address("fd00::9"))
    relayed = frame[:6] + OTHER + frame[12:]
    assert claim(relayed) == Claim("fd00::9", MAC, frame[:6], reply=False)
    without = relayed[:78]
    assert claim(without) == Claim("fd00::9", OTHER, frame[:6], reply=False)
    solicited = frame[:58] + b"\x60" + frame[59:]
    assert claim(solicited) == Claim("fd00::9", MAC, frame[:6], reply=True)


@pytest.mark.parametrize(
    "frame",
    [
        probe_frame(MAC, "10.0.0.9"),
        probe_frame(MAC, "fd00::9"),
        arp_frame(MAC, IPv4Address("10.0.0.9"), reply=True)[:41],
        neighbour_advertisement_frame(MAC, IPv6Address("fd00::9"))[:77],
        # Has come through a router.
        bytes(254 if i == 21 else b for i, b in enumerate(frames(MAC, "fd00::9")[0])),
        b"",
    ],
)
def test_probes_and_broken_frames_claim_nothing(frame: bytes) -> None:
    assert claim(frame) is None


@given(st.binary(max_size=100), st.sampled_from([b"\x08\x06", b"\x86\xdd"]))
def test_no_frame_is_too_strange_to_be_read(tail: bytes, kind: bytes) -> None:
    claim(bytes(12) + kind + tail)
    claim(arp_frame(MAC, IPv4Address("10.0.0.9"), reply=True)[: len(tail)] + tail)


def test_a_hardware_address_is_written_with_colons() -> None:
    assert mac_text(MAC) == "b8:27:eb:01:02:03"
