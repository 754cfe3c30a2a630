"""The keys of this host: its own pair, the coordinator's public key, and the list of the hosts that may come in.

    secret       own secret key, for its owner's eyes alone (0600)
    coordinator  the coordinator's public key, on the other hosts
    allowed      one line a host, "NAME PUBLIC-KEY", where the coordinator runs
    lock         held by whoever changes `allowed`

Nobody else may write any of them, nor in the directory.

Keys are CURVE keys in ZeroMQ's Z85: 40 characters.
"""

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import zmq
import zmq.utils.z85

from worker.errors import ConfigError

NAME = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9_.:-]*\Z")
KEY_BYTES = 32
OTHERS_WRITE = 0o022

Stamp = tuple[int, int, int]  # of a file: a new one has another


class Keyring:
    """The directory of keys. Nothing is read before it is asked for; the list is read anew when the file changes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._allowed: tuple[Stamp | None, dict[str, str]] = None, {}

    @classmethod
    def at(cls, directory: str | None) -> Self:
        """The keys in this directory, which may begin with "~"; without one, in STAGELINE_KEYS or else in
        `stageline/keys` of the user's configuration."""
        named = directory or os.environ.get("STAGELINE_KEYS")
        if named:
            return cls(Path(named).expanduser())
        configuration = os.environ.get("XDG_CONFIG_HOME")
        return cls((Path(configuration) if configuration else Path.home() / ".config") / "stageline" / "keys")

    # --- questions ---

    @property
    def secret(self) -> str:
        """Own secret key. Raises ConfigError if there is none, and if others may read it."""
        path = self.directory / "secret"
        secret = self._read(path, "`stageline keys new` makes this host's keys")
        self._check_directory()
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            raise ConfigError(f"{path}: other users can read it (mode {mode:03o}): `chmod 600 {path}`")
        return _checked(secret, path)

    @property
    def public(self) -> str:
        """Own public key. Raises ConfigError as `secret` does."""
        return zmq.curve_public(self.secret.encode()).decode()

    @property
    def has_pair(self) -> bool:
        """Whether this host has keys of its own."""
        return (self.directory / "secret").exists()

    @property
    def coordinator(self) -> str:
        """The coordinator's public key. Raises ConfigError if it is not known here, and if others may change it."""
        path = self.directory / "coordinator"
        fix = "`stageline keys add --coordinator KEY` takes the key that `stageline keys list` shows there"
        public = self._read(path, fix)
        self._check_directory()
        _check_own(path, path.stat().st_mode)
        return _checked(public, path)

    @property
    def knows_coordinator(self) -> bool:
        """Whether the coordinator's public key is known here."""
        return (self.directory / "coordinator").exists()

    def key_of(self, name: str) -> str | None:
        """The public key of a host that may come in."""
        return self._read_allowed().get(name)

    def name_of(self, public: str) -> str | None:
        """The host that may come in with this public key."""
        return next((name for name, key in self._read_allowed().items() if key == public), None)

    def names(self) -> tuple[str, ...]:
        """The hosts that may come in, as listed."""
        return tuple(self._read_allowed())

    # --- changes, for `stageline keys` ---

    def new(self) -> None:
        """Make this host's pair of keys; one that exists is replaced."""
        public, secret = zmq.curve_keypair()
        while public.startswith(b"-"):  # would be an option on a command line
            public, secret = zmq.curve_keypair()
        self._write("secret", secret.decode() + "\n")

    def trust(self, public: str) -> None:
        """Remember the coordinator's public key. Raises ConfigError if it is none."""
        self._write("coordinator", _checked(public, None) + "\n")

    def add(self, name: str, public: str) -> None:
        """Let a host in; its former key, if there is one, is forgotten. Raises ConfigError for a name or key that is
        none, and for the key of another host."""
        if not NAME.match(name):
            raise ConfigError(f"{name!r} is no name of a host: letters, digits and . _ : - are allowed")
        _checked(public, None)
        with self._locked():
            owner = self.name_of(public)
            if owner not in (None, name):
                raise ConfigError(
                    f"{name} has the key of {owner}: every host needs keys of its own (with a shared home directory, a "
                    f"STAGELINE_KEYS of its own); if it is the same host, `stageline keys revoke {owner}` first"
                )
            self._write_allowed({**self._read_allowed(), name: public})

    def revoke(self, name: str) -> None:
        """Shut a host out. Raises ConfigError if it is not on the list."""
        if self.key_of(name) is None:
            known = ", ".join(self.names()) or "none"
            raise ConfigError(f"{name} is not on the list of {self.directory / 'allowed'}; on it: {known}")
        with self._locked():
            self._write_allowed({host: key for host, key in self._read_allowed().items() if host != name})

    # --- files ---

    def _read_allowed(self) -> dict[str, str]:
        path = self.directory / "allowed"
        try:
            status = path.stat()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
        stamp = status.st_ino, status.st_mtime_ns, status.st_size
        if stamp != self._allowed[0]:
            self._check_directory()
            _check_own(path, status.st_mode)
            self._allowed = stamp, _parsed(self._read(path, "check its permissions"), path)
        return self._allowed[1]

    def _write_allowed(self, allowed: dict[str, str]) -> None:
        self._write("allowed", "".join(f"{name} {public}\n" for name, public in allowed.items()))

    def _check_directory(self) -> None:
        """Who may write there can put another file in the place of one that is well guarded."""
        mode = self.directory.stat().st_mode
        if mode & OTHERS_WRITE:
            raise ConfigError(f"{self.directory}: other users can write there: `chmod 700 {self.directory}`")

    def _make_directory(self) -> None:
        """Before anything is written. Raises ConfigError for one that others can write in, OSError if it cannot be."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._check_directory()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Nobody else changes the list meanwhile; two that do so at once wait for each other."""
        path = self.directory / "lock"
        with contextlib.ExitStack() as stack:
            try:
                self._make_directory()
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
                stack.callback(os.close, descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError as error:
                raise ConfigError(f"{path}: cannot be locked: {error.strerror}") from error
            yield

    def _read(self, path: Path, fix: str) -> str:
        try:
            return path.read_text(encoding="ascii").strip()
        except FileNotFoundError as error:
            raise ConfigError(f"{path}: no such file: {fix}") from error
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not a text file"
            raise ConfigError(f"{path}: cannot be read: {reason}") from error

    def _write(self, name: str, text: str) -> None:
        """Replace a file as a whole: a reader sees the old one or the new one, and nobody else either. What fails
        leaves nothing behind."""
        path = self.directory / name
        new = path.with_name(f"{name}.{os.getpid()}")
        try:
            self._make_directory()
            new.unlink(missing_ok=True)
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with open(descriptor, "w", encoding="ascii") as file:
                    file.write(text)
                new.replace(path)
            except BaseException:
                new.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error


def is_key(text: str) -> bool:
    """Whether this is a key in Z85."""
    try:
        return len(text) == 40 and len(zmq.utils.z85.decode(text)) == KEY_BYTES
    except (ValueError, KeyError, OverflowError, UnicodeEncodeError):
        return False


def _check_own(path: Path, mode: int) -> None:
    if mode & OTHERS_WRITE:
        raise ConfigError(f"{path}: other users can write it: `chmod 600 {path}`")


def _checked(key: str, path: Path | None) -> str:
    if not is_key(key):
        where = f"{path}: " if path else f"{key!r}: "
        raise ConfigError(f"{where}not a key: a key is 40 characters long, as `stageline keys list` shows it")
    return key


def _parsed(text: str, path: Path) -> dict[str, str]:
    allowed: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        name, _, public = line.partition(" ")
        if not NAME.match(name) or not is_key(public) or name in allowed or public in allowed.values():
            raise ConfigError(f"{path}: line {number} is not a new name, a space and a new public key: correct it")
        allowed[name] = public
    return allowed
