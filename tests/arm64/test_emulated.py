"""What has to be the same on every processor, on arm64; more of it: `make test-arm64`."""

from __future__ import annotations

import os

import pytest

from tests.arm64.emulated import Unavailable, prepare, run_pytest

SHORT = (
    "tests/fastpath/hashing",
    "tests/fastpath/packet/test_checksum.py",
    "tests/fastpath/packet/test_parse.py",
    "--deselect=tests/fastpath/packet/test_parse.py::test_a_changed_frame_is_what_the_model_says",
    "tests/fastpath/packet/test_published.py",
    "tests/fuzz/test_structures.py::test_a_structure_does_what_its_model_does",
)


@pytest.mark.timeout(900)  # everything may have to be built first
def test_published_vectors_hold_and_structures_do_what_their_models_do_on_arm64() -> None:
    try:
        prepare()
    except Unavailable as reason:
        pytest.skip(str(reason))
    assert run_pytest(["-q", *SHORT]) == os.EX_OK
