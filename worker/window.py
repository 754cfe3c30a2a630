"""The credit of a data link: how much may be on its way unapplied. Pure."""

from collections import deque

WINDOW_MESSAGES = 16
WINDOW_BYTES = 256 << 20


class Window:
    """Numbers the messages of a link from 1 and knows which of them the receiver has not applied yet."""

    def __init__(self) -> None:
        self._sent = 0
        self._unapplied: deque[tuple[int, int]] = deque()
        self._bytes = 0

    @property
    def has_room(self) -> bool:
        """Whether another message may be sent."""
        return len(self._unapplied) < WINDOW_MESSAGES and self._bytes < WINDOW_BYTES

    def sent(self, payload_bytes: int) -> int:
        """A message goes out; returns its sequence number."""
        self._sent += 1
        self._unapplied.append((self._sent, payload_bytes))
        self._bytes += payload_bytes
        return self._sent

    def applied(self, sequence: int) -> None:
        """The receiver has applied everything up to and with `sequence`."""
        while self._unapplied and self._unapplied[0][0] <= sequence:
            self._bytes -= self._unapplied.popleft()[1]
