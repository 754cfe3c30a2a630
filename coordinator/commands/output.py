"""Writes a model's text to stdout as it arrives."""

import sys

# a model's output must not move the cursor or set colours
_CONTROLS = {
    code: "\N{REPLACEMENT CHARACTER}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"
}


def write(text: str) -> None:
    """Writes `text` at once; on a terminal a control character becomes a replacement character."""
    sys.stdout.write(text.translate(_CONTROLS) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def end_line(text: str) -> None:
    """Ends the line that `text` left open, if any."""
    if text and not text.endswith("\n"):
        write("\n")
