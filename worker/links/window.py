"""The credit of a data link: how much may be on its way unapplied. Pure."""

from collections import deque

WINDOW_MESSAGES = 16
WINDOW_BYTES = 256 << 20
ACK_MESSAGES = WINDOW_MESSAGES // 4  # acknowledgements wake the sender: one says it for several messages
ACK_BYTES = WINDOW_BYTES // 4


class Window:
    """Numbers the messages of a link from 1 and knows which of them the receiver has not applied yet."""

    def __init__(self) -> None:
        self._sent = 0
        self._messages: deque[tuple[int, int]] = deque()  # sequence number and bytes of those not applied
        self._bytes = 0

    @property
    def has_room(self) -> bool:
        """Whether another message may be sent."""
        return len(self._messages) < WINDOW_MESSAGES and self._bytes < WINDOW_BYTES

    @property
    def unapplied(self) -> int:
        """Messages that the receiver has not applied, as far as is known."""
        return len(self._messages)

    def sent(self, payload_bytes: int) -> int:
        """A message goes out; returns its sequence number."""
        self._sent += 1
        self._messages.append((self._sent, payload_bytes))
        self._bytes += payload_bytes
        return self._sent

    def applied(self, sequence: int) -> None:
        """The receiver has applied everything up to and with `sequence`."""
        while self._messages and self._messages[0][0] <= sequence:
            self._bytes -= self._messages.popleft()[1]
