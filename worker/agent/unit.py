"""A file that makes the system run the agent."""

from pathlib import Path
from typing import NamedTuple

# seconds for the workers to give their memory back before anything is killed; longer than a supervisor takes
LEAVE_SECONDS = 60
AGAIN_SECONDS = 30  # between two starts


class Place(NamedTuple):
    """Whose service it is: `user`'s with the id `number`, or with `system` the machine's, run by that user."""

    is_mac: bool
    system: bool
    user: str
    number: int
    home: Path


class Unit(NamedTuple):
    """The file, where its output goes (None: the system's journal), and what to run once it is written."""

    path: Path
    text: str
    log: Path | None
    start: str
