"""When an agent hails, beats, and takes its coordinator for lost. Pure: time is an argument."""

from enum import Enum, auto

TICK_SECONDS = 1.0


class Due(Enum):
    """What is to be done now."""

    NOTHING = auto()
    HAIL = auto()
    BEAT = auto()
    LOST = auto()


class Presence:
    """One session with the coordinator, asked every TICK_SECONDS.

    Until it is surveyed the agent hails, without end: the coordinator answers when all hosts are there. From then on a
    coordinator that says nothing for `silence` seconds is lost. `connected` is set by whoever knows.
    """

    def __init__(self, now: float) -> None:
        self.connected = False
        self.silence: float | None = None
        self._heard = now
        self._asked = now

    @property
    def surveyed(self) -> bool:
        """Whether the coordinator has answered."""
        return self.silence is not None

    def heard(self, now: float, silence: float | None = None) -> None:
        """A message came; a survey says how long the next one may take."""
        self._heard = now
        if silence is not None:
            self.silence = silence

    def due(self, now: float) -> Due:
        """What is due, asked at least every two TICK_SECONDS: after a pause of this process (a sleeping machine) the
        coordinator's messages are still waiting to be read."""
        if now - self._asked > 2 * TICK_SECONDS:
            self._heard = now
        self._asked = now
        if self.silence is None:
            return Due.HAIL if self.connected else Due.NOTHING
        return Due.LOST if now - self._heard > self.silence else Due.BEAT
