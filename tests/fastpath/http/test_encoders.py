"""Encoders beside real decoders: however bytes come and however little room there is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fastpath.http.codings import ALL, DECODERS, decoded, words

probe = pytest.importorskip("fastpath.http._probe", reason="built without PIAGENT_PROBE=1")

PIECES = st.lists(
    st.tuples(
        st.one_of(
            st.binary(max_size=300),
            st.integers(0, 40_000).map(words),
            st.integers(0, 40_000).map(bytes),
        ),
        st.sampled_from(["go", "flush"]),
        st.integers(7, 400),
    ),
    max_size=8,
)


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=60)
@given(streams=st.lists(PIECES, min_size=1, max_size=3), end=st.binary(max_size=2000))
def test_what_goes_in_comes_out_stream_after_stream(
    name: str, streams: list[list[tuple[bytes, str, int]]], end: bytes
) -> None:
    encoder = probe.Encoder(name)
    for pieces in streams:
        decoder, given_in, taken_out = DECODERS[name](), b"", b""
        for data, wanted, room in pieces:
            given_in += data
            taken_out += decoder.feed(encoder.run(data, wanted, room))
            if wanted == "flush":
                assert taken_out == given_in
        taken_out += decoder.feed(encoder.run(end, "end", 100))
        assert taken_out == given_in + end
        assert decoder.ended()
        assert encoder.again()


@pytest.mark.parametrize("name", ALL)
def test_a_stream_that_was_left_in_the_middle_is_not_in_the_next_one(name: str) -> None:
    encoder = probe.Encoder(name)
    for _ in range(50):
        encoder.run(words(20_000), "go")
        assert encoder.again()
    assert decoded(name, encoder.run(b"next", "end")) == b"next"


@pytest.mark.parametrize("name", ALL)
def test_nothing_at_all_is_a_stream_too(name: str) -> None:
    assert decoded(name, probe.Encoder(name).run(b"", "end")) == b""


@pytest.mark.parametrize("name", ALL)
def test_a_stream_that_has_its_end_takes_no_more_and_nothing_breaks(name: str) -> None:
    encoder = probe.Encoder(name)
    encoder.run(b"x", "end")
    encoder.run(b"y", "go")  # fails, or begins another one: nobody asks for it
    assert encoder.again()
    assert decoded(name, encoder.run(b"z", "end")) == b"z"


@pytest.mark.parametrize("name", ALL)
def test_text_becomes_much_less(name: str) -> None:
    text = words(100_000)
    assert len(probe.Encoder(name).run(text, "end")) < 0.55 * len(text)


@pytest.mark.parametrize("name", ["br", "zstd"])  # zlib.h asks for more than six bytes
@pytest.mark.parametrize("wanted", ["flush", "end"])
def test_with_hardly_any_room_all_of_it_comes_out(name: str, wanted: str) -> None:
    for size in (0, 1, 16384, 20_000, 32_753):
        for room in (1, 2, 3):
            decoder = DECODERS[name]()
            out = probe.Encoder(name).run(words(size), wanted, room)
            assert decoder.feed(out) == words(size), (size, room)
            assert decoder.ended() == (wanted == "end")
