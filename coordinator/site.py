"""What the pipeline needs of the place where its workers run: this machine (`LocalSite`) or several hosts (`Fleet`)."""

from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from worker.protocol import Message

Received = Callable[[int, str, Message], None]  # stage, session, message
Ended = Callable[[int, str], None]  # stage, reason
Hindered = Callable[[int, str], None]  # stage, reason


class Site(Protocol):
    """Starts and ends workers and carries messages to them; what happens there goes to what is attached."""

    def attach(self, received: Received, ended: Ended, hindered: Hindered) -> None:
        """`received` gets the workers' messages; `ended` is called when a worker's process is gone, `hindered` when a
        machine that is waited for is there and cannot take part."""
        ...

    async def reach(self, stage: int) -> None:
        """Wait until the stage's machine is there."""
        ...

    async def start(self, stage: int, session: str) -> int:
        """Start the stage's worker, whose life is named `session`; returns its pid. Raises OSError if that fails."""
        ...

    def kill(self, stage: int) -> None:
        """End a worker that does not answer any more."""
        ...

    @property
    def refused(self) -> Mapping[str, int]:
        """Connections to the coordinator that were turned away, by reason."""
        ...

    def send(self, stage: int, session: str, message: Message) -> None:
        """Send at once; that a worker is gone meanwhile is told to `ended`, not here."""
        ...

    async def stop(self, ask: Callable[[], None], *, hearing: Collection[int]) -> None:
        """End all workers: `ask` them to leave, wait, SIGTERM, wait, SIGKILL, and reap every one.

        Those that are not `hearing`, because they start or load, get the SIGTERM at once.
        """
        ...

    def close(self) -> None:
        """No messages any more; nothing is left on disk."""
        ...
