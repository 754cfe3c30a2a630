import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.text.stop import StopMatcher


def run(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    matcher = StopMatcher(stops)
    out = ""
    for piece in pieces:
        text, stopped = matcher.push(piece)
        out += text
        if stopped:
            return out, True
    return out + matcher.flush(), False


def first_complete(stops: list[str], text: str) -> tuple[str, bool]:
    """The definition: read letter by letter, stop when a stop string has just been completed; the longest counts."""
    for end in range(1, len(text) + 1):
        if ended := [stop for stop in stops if text[:end].endswith(stop)]:
            return text[: end - max(map(len, ended))], True
    return text, False


@pytest.mark.parametrize(
    ("stops", "pieces", "expected"),
    [
        pytest.param([], ["ab", "c"], ("abc", False), id="none"),
        pytest.param(["END"], ["say EN", "D now"], ("say ", True), id="across pieces"),
        pytest.param(["END"], ["say EN", "vy"], ("say ENvy", False), id="held back and released"),
        pytest.param(["END"], ["say EN"], ("say EN", False), id="held back to the end"),
        pytest.param(["abcd", "bc"], ["abcd"], ("a", True), id="complete first, not begun first"),
        pytest.param(["c", "abc"], ["abc"], ("", True), id="longest of those that end together"),
        pytest.param(["aab"], ["aa", "aab"], ("aa", True), id="overlapping beginnings"),
        pytest.param(["\n\n"], ["a\n", "\nb"], ("a", True), id="line breaks"),
    ],
)
def test_example(stops: list[str], pieces: list[str], expected: tuple[str, bool]) -> None:
    assert run(stops, pieces) == expected


@given(
    stops=st.lists(st.text("ab", min_size=1, max_size=4), max_size=4),
    pieces=st.lists(st.text("ab", max_size=4), max_size=8),
)
def test_result_does_not_depend_on_the_cuts(stops: list[str], pieces: list[str]) -> None:
    assert run(stops, pieces) == first_complete(stops, "".join(pieces))


@given(
    stops=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
    pieces=st.lists(st.text("ab", max_size=4), max_size=8),
)
def test_nothing_is_held_back_without_need(stops: list[str], pieces: list[str]) -> None:
    matcher = StopMatcher(stops)
    whole, out = "", ""
    for piece in pieces:
        text, stopped = matcher.push(piece)
        if stopped:
            return
        whole, out = whole + piece, out + text
        held = whole[len(out) :]
        assert not held or any(stop.startswith(held) for stop in stops)
