"""The keys of this host, for links to other hosts."""

from pathlib import Path

from worker.agent.messages import Finding
from worker.checkup.check import Check
from worker.errors import ConfigError
from worker.links.keyring import OTHERS_WRITE, Keyring

OTHERS = 0o077  # may do anything at all
OTHERS_LOOK = 0o055  # may see which files there are, or enter

NEW = "stageline keys new"
CLOSE_DIRECTORY = "chmod 700 {path}"
CLOSE_FILE = "chmod 600 {path}"
EXCHANGE = (
    "`stageline keys list` shows a host's key: on the coordinator's machine `stageline keys add NAME KEY`, on the "
    "others `stageline keys add --coordinator KEY`"
)
ANEW = "correct or remove the file, then `stageline keys new` or `stageline keys add` writes it anew"
CHECK = Check(
    "keys",
    "The directory of keys (0700) and its files (0600): own keys, the coordinator's, and how many hosts may come in. "
    "Where several hosts are used. Fails without own keys, for a file that cannot be read, and if others can read the "
    "secret key or change who is trusted; warns if no other host is known, and if others can look into the directory.",
    (NEW, CLOSE_DIRECTORY, CLOSE_FILE, EXCHANGE, ANEW),
)


def key_files(directory: Path) -> Finding:
    """What is there; no secret is told."""
    keyring = Keyring(directory)
    try:
        if not keyring.has_pair:
            return CHECK.fail(f"no keys of this host in {directory}", NEW)
        for path, others, fix in (
            (directory, OTHERS_WRITE, CLOSE_DIRECTORY),
            (directory / "secret", OTHERS, CLOSE_FILE),
            (directory / "coordinator", OTHERS_WRITE, CLOSE_FILE),
            (directory / "allowed", OTHERS_WRITE, CLOSE_FILE),
        ):
            mode = path.stat().st_mode & 0o777 if path.exists() else 0
            if mode & others:
                return CHECK.fail(f"{path} is open to others (mode {mode:03o})", fix.format(path=path))
        told = f"{directory}: own key {keyring.public}"
        told += f", coordinator {keyring.coordinator}" if keyring.knows_coordinator else ""
        names = keyring.names()
        mode = directory.stat().st_mode & 0o777
    except ConfigError as error:
        return CHECK.fail(error.message, ANEW)
    except OSError as error:
        return CHECK.fail(f"{error.filename}: {error.strerror}", ANEW)
    if names:
        told += f", {len(names)} {'host' if len(names) == 1 else 'hosts'} allowed ({', '.join(names)})"
    if not names and not keyring.knows_coordinator:
        return CHECK.warn(f"{told}, no other host is known", EXCHANGE)
    if mode & OTHERS_LOOK:
        return CHECK.warn(
            f"{told}; others can see which files are there (mode {mode:03o})", CLOSE_DIRECTORY.format(path=directory)
        )
    return CHECK.ok(told)
