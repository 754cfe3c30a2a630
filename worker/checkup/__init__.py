"""What can be wrong with a machine before it serves, each finding with its fix; `stageline doctor`."""

from worker.checkup.host import checkup

__all__ = ["checkup"]
