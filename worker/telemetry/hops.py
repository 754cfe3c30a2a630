"""What crosses to the next stage: bytes, and the time on the wire. Pure: every time is passed in, in monotonic seconds.

The clocks of two processes are never compared. Now and then the receiver answers a message that found it waiting, and
says how long it has held it; half of what else passed since the hand-over is one hop. The sender must have been waiting
for that answer, or its own step would be in the number.
"""

from collections import deque
from collections.abc import Callable
from statistics import fmean

from worker.protocol import Activations, Message, Tokens

RECEIPT_EVERY = 16  # decode messages: an answer costs the receiver time during its step
LAST_HOPS = 32
_KEPT = 64  # hand-overs, more than may be on their way


class Hops:
    """Both ends of a worker: hand-overs to the next stage, and answers to the one before.

    `measured` is called with the seconds of each measured hop.
    """

    def __init__(self, measured: Callable[[float], None]) -> None:
        self.nbytes = 0
        self._measured = measured
        self._last: deque[float] = deque(maxlen=LAST_HOPS)
        self._handed = [(0, 0.0)] * _KEPT
        self._pause = 0  # messages to let pass before the next answer

    @property
    def mean(self) -> float:
        """Seconds of one hop, mean of the last ones; 0 if none was measured."""
        last = self._last.copy()
        return fmean(last) if last else 0.0

    def begin(self) -> None:
        """A new epoch: messages are numbered anew."""
        self._handed = [(0, 0.0)] * _KEPT

    def handed(self, sequence: int, nbytes: int, now: float) -> None:
        """A message went to the next stage."""
        self.nbytes += nbytes
        self._handed[sequence % _KEPT] = (sequence, now)

    def answered(self, sequence: int, held: float, now: float) -> None:
        """The next stage's answer to a message woke this one."""
        number, handed = self._handed[sequence % _KEPT]
        if number == sequence and (round_trip := now - handed - held) > 0:
            self._last.append(round_trip / 2)
            self._measured(round_trip / 2)

    def answers(self, message: Message) -> bool:
        """Whether to answer a message of the stage before that woke this one."""
        if not isinstance(message, Activations | Tokens) or message.batch is None:
            return False
        if self._pause > 0:
            self._pause -= 1
            return False
        self._pause = RECEIPT_EVERY - 1
        return True
