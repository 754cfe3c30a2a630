import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from coordinator.text.detokenize import Detokenizer
from tests.tokenizer_files import BOS, IM_END, SPECIAL, byte_fallback, byte_level, byte_level_with_merges

PLAIN = byte_level()
MERGED = byte_level_with_merges()
FALLBACK = byte_fallback()

# bytes that begin, continue, end or break characters, more often than chance would have them
AWKWARD = [0x41, 0x80, 0x82, 0x98, 0x9F, 0xA0, 0xA9, 0xAC, 0xBD, 0xBF, 0xC3, 0xE2, 0xED, 0xEF, 0xF0, 0xFF]


def pieces(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer, frozenset(SPECIAL.values()))
    return [*(detokenizer.push(id) for id in ids), detokenizer.flush()]


def any_token(tokenizer: Tokenizer) -> st.SearchStrategy[int]:
    beyond = tokenizer.get_vocab_size() + 2  # a model's vocabulary may be larger than its tokenizer's
    return st.sampled_from(AWKWARD) | st.integers(0, beyond)


@pytest.mark.parametrize("tokenizer", [PLAIN, MERGED], ids=["bytes", "merges"])
@given(data=st.data())
def test_joined_pieces_are_the_decoded_whole(tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(any_token(tokenizer), max_size=24))
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids, skip_special_tokens=True)


@given(text=st.text().filter(lambda text: not any(name in text for name in SPECIAL)))
def test_text_comes_back(text: str) -> None:
    for tokenizer in (PLAIN, MERGED):
        assert "".join(pieces(tokenizer, tokenizer.encode(text, add_special_tokens=False).ids)) == text


@given(text=st.text(st.sampled_from("the a\u00e9\u20ac\U0001f600 ")))
def test_byte_fallback_of_valid_text(text: str) -> None:
    ids = FALLBACK.encode(text).ids
    assert "".join(pieces(FALLBACK, ids)) == FALLBACK.decode(ids, skip_special_tokens=True)


def test_space_before_a_word_stays_in_the_middle() -> None:
    the = FALLBACK.token_to_id("\u2581the")
    assert pieces(FALLBACK, [the, IM_END, the, the]) == ["the", "", " the", " the", ""]


def test_character_comes_with_its_last_byte() -> None:
    assert pieces(PLAIN, [0x61, 0xF0, 0x9F, BOS, 0x98, 0x80, 0x62]) == ["a", "", "", "", "", "\U0001f600", "b", ""]


def test_half_a_character_at_the_end_is_one_replacement() -> None:
    assert pieces(PLAIN, [0x61, 0xF0, 0x9F]) == ["a", "", "", "\ufffd"]


def test_what_cannot_become_text_is_not_held_back_for_ever() -> None:
    out = pieces(PLAIN, [0xFF] * 10)
    assert "".join(out) == "\ufffd" * 10
    assert len("".join(out[:-1])) == 9


def test_time_is_linear_in_the_number_of_tokens() -> None:
    started = time.perf_counter()
    assert len("".join(pieces(PLAIN, [0xFF] * 50_000))) == 50_000
    # a decoder that reads all of it again each time needs minutes
    assert time.perf_counter() - started < 10
