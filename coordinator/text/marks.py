"""Where a conversation's prompt may be shared with others: after what comes before its first user message, after the
last user message, and before the words that invite the answer.

A template is a program, so it is asked: what it writes for fewer messages is compared with the whole prompt, and the
shared beginning counts. That holds for every template; one that refuses fewer messages only gives fewer places.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from worker.errors import UserError

Messages = Sequence[Mapping[str, Any]]

OTHER = "\ue000"  # a user message that nobody has written; of a private area of Unicode


def shared_places(text: str, messages: Messages, render: Callable[[Messages], str]) -> tuple[int, ...]:
    """Places in `text`, the whole prompt, up to which a prompt of other messages would be the same; ascending.

    `render` writes messages without inviting an answer.
    """
    users = [index for index, message in enumerate(messages) if message["role"] == "user"]
    if not users:
        return ()
    others = [[*messages[: users[0]], {"role": "user", "content": OTHER}], messages[: users[-1] + 1], messages]
    places: set[int] = set()
    for other in others if others[1] != messages else others[:2]:
        try:
            places.add(_shared(text, render(other)))
        except UserError:
            continue
    return tuple(sorted(places))


def _shared(one: str, other: str) -> int:
    """How many characters two texts have in common at their beginning."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one.startswith(other[low:middle], low):
            low = middle
        else:
            high = middle - 1
    return low
