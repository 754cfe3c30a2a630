"""Token ids to text, piece by piece."""

from tokenizers import Tokenizer

# what decoders put in the place of bytes that are not UTF-8, or not yet
_REPLACEMENT = "\ufffd"
# the most bytes of one character, so the most tokens that one character can be spread over
_LONGEST = 4


class Detokenizer:
    """The text of one growing sequence; the pieces joined are `tokenizer.decode` of all ids without special tokens.

    Only a short window of tokens is decoded again for each new one: back to the last point at which the text ended
    with a whole character, and the tokens before it that led there (decoders that treat the first token of a text in
    their own way need the context). Equality is exact for byte-level decoders, whatever the bytes; for byte-fallback
    ones it holds for every valid text.
    """

    def __init__(self, tokenizer: Tokenizer, special: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._special = special
        self._window: list[int] = []
        self._context = 0  # the first tokens of the window, whose text ended with a whole character
        self._sent = 0  # characters of the window's text already returned

    def push(self, token: int) -> str:
        """The text that is certain after this token; empty in the middle of a character and for special tokens."""
        # ids without text stay out of the window: a model's vocabulary may be padded beyond its tokenizer's
        if token in self._special or self._tokenizer.id_to_token(token) is None:
            return ""
        self._window.append(token)
        text = self._decode()
        pending = len(self._window) - self._context
        if not text.endswith(_REPLACEMENT):
            piece = text[self._sent :]
            self._window = self._window[self._context :]
            self._context = len(self._window)
            self._sent = len(self._decode())
            return piece
        if pending < _LONGEST:
            # all of the replacements at the end may be one character that is not complete
            piece = text[self._sent : max(self._sent, len(text.rstrip(_REPLACEMENT)))]
            self._sent += len(piece)
            return piece
        # not UTF-8, or it would have ended by now: only the last character is still open
        piece = text[self._sent : -1]
        self._window = self._window[-_LONGEST:]
        self._context = 0
        self._sent = len(self._decode()) - 1
        return piece

    def flush(self) -> str:
        """The rest at the end of the sequence: U+FFFD for bytes that never became a character."""
        rest = self._decode()[self._sent :]
        self._window, self._context, self._sent = [], 0, 0
        return rest

    def _decode(self) -> str:
        return self._tokenizer.decode(self._window, skip_special_tokens=False)
