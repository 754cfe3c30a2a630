"""One thing that `stageline doctor` looks at; its name, and what it can tell people to do, stand in docs/doctor.md."""

from typing import NamedTuple

from worker.agent.messages import Finding


class Check(NamedTuple):
    """`about` says what is looked at, and when it warns or fails; `fixes` are templates of what it advises."""

    name: str
    about: str
    fixes: tuple[str, ...] = ()

    def ok(self, found: str, fix: str = "") -> Finding:
        """Nothing is wrong; a `fix` here is what could still be had."""
        return Finding(check=self.name, level="ok", found=found, fix=fix)

    def warn(self, found: str, fix: str) -> Finding:
        """It works, but slower or less surely than it could."""
        return Finding(check=self.name, level="warn", found=found, fix=fix)

    def fail(self, found: str, fix: str) -> Finding:
        """A cluster does not work like this."""
        return Finding(check=self.name, level="fail", found=found, fix=fix)
