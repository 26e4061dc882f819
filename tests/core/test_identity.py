"""What is made once of an object."""

from __future__ import annotations

from piagent.core.identity import once


def test_it_is_made_again_of_another_object_only() -> None:
    made: list[list[int]] = []

    def length(value: list[int]) -> int:
        made.append(value)
        return len(value)

    remembering = once(length, 2)
    one, same, other = [1], [1], [1, 2]
    assert [remembering(value) for value in (one, one, same, other, same)] == [1, 1, 1, 2, 1]
    assert [id(value) for value in made] == [id(one), id(same), id(other)]
    assert remembering(one) == 1
    assert len(made) == 4, "only the last two are kept"
