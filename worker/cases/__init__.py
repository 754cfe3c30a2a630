"""What a decode step consists of, operation by operation, for measuring."""

from worker.cases.case import Case
from worker.cases.model import cases

__all__ = ["Case", "cases"]
