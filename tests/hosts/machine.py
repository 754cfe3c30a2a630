"""A machine of its own inside this one: namespaces of network, mounts, processes and host name, with one user.

Nothing of it has a name outside: no user in the real /etc/passwd, no named namespace. The machine is its first process,
a shell that waits for the end of its standard input, which this process holds; with it everything in it ends, however
this process ends. It sees the real file system, but has a /tmp and a /home of its own, and directories that only root
can enter (the interpreter may lie below /root) are covered by others that hold what is needed of them.
"""

import ctypes
import os
import shlex
import subprocess
from contextlib import contextmanager
from pathlib import Path

PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
STATE = ".local/state/stageline"
LIBC = ctypes.CDLL(None, use_errno=True)


class Machine:
    """`user` logs in at `name`, which others reach at `address`; `shown` are directories that the user can read."""

    def __init__(self, folder, name, address, user, uid, *, shown, hosts):
        self.name = name
        self.address = address
        self.user = user
        self.uid = uid
        self.folder = folder
        self.home = folder / "home" / user
        self.temporary = folder / "tmp"
        folder.mkdir(mode=0o755)
        self.temporary.mkdir()
        self.temporary.chmod(0o1777)
        self.home.mkdir(parents=True, mode=0o755)
        (folder / "passwd").write_text(
            f"{Path('/etc/passwd').read_text()}{user}:*:{uid}:{uid}::/home/{user}:/bin/bash\n"
        )
        (folder / "group").write_text(f"{Path('/etc/group').read_text()}{user}:x:{uid}:\n")
        (folder / "hosts").write_text(hosts)
        self.services = folder / "services"  # what they need, and their log
        self.services.mkdir(mode=0o755)
        self._shown = [*shown, self.services]
        self._process = None

    def start(self, *services):
        """Boots it; `services` are command lines, run as root until it ends."""
        lines = [f"hostname {self.name}", "ip link set lo up", *self._mounts()]
        lines += [f"{service} > {self.services / 'log'} 2>&1 < /dev/null &" for service in services]
        lines += ["echo up", "read -r _ || true"]
        command = ["unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--mount-proc"]
        self._process = subprocess.Popen(
            [*command, "bash", "-euc", "\n".join(lines)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        said = self._process.stdout.readline()
        assert said == "up\n", said + self._process.communicate()[0]
        self.pid = int(Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text())

    def _mounts(self):
        covers = {Path("/tmp"): self.temporary, Path("/home"): self.folder / "home"}
        for path in self._shown:
            for parent in reversed(path.parents):
                if not parent.stat().st_mode & 0o001 and not any(parent.is_relative_to(cover) for cover in covers):
                    covers[parent] = self.folder / "covers" / str(len(covers))
        binds = []
        for directory, cover in covers.items():
            cover.mkdir(parents=True, exist_ok=True)
            for path in (path for path in self._shown if path.is_relative_to(directory)):
                (cover / path.relative_to(directory)).mkdir(parents=True, exist_ok=True)
                binds.append(f"mount --bind {path} {cover / path.relative_to(directory)}")
        for name in ("passwd", "group", "hosts"):
            binds.append(f"mount --bind {self.folder / name} /etc/{name}")
        binds += ["mount -t tmpfs tmpfs /run", "mkdir /run/sshd"]
        # the cover of /tmp last: what is bound lies below it
        return binds + [f"mount --rbind {covers[directory]} {directory}" for directory in sorted(covers)]

    def stop(self):
        if self._process is not None:
            self._process.communicate()  # the end of its standard input
            self._process = None

    def entered(self, *command):
        """The words of a command line that runs a command there, as its user in its home directory."""
        namespaces = ("--net", "--mount", "--uts", "--ipc", "--pid")
        user = ("setpriv", f"--reuid={self.uid}", f"--regid={self.uid}", "--clear-groups")
        home = f"/home/{self.user}"
        variables = ("env", "-i", f"--chdir={home}", f"HOME={home}", f"USER={self.user}", f"PATH={PATH}")
        return ["nsenter", f"--target={self.pid}", *namespaces, *user, *variables, *map(str, command)]

    def run(self, *command):
        """Its output."""
        done = subprocess.run(
            self.entered(*command), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"{shlex.join(map(str, command))}: {done.stdout}{done.stderr}"
        return done.stdout

    def write(self, path, text, mode=0o644):
        """A file of its user, below the home directory."""
        path = self.home / path
        for parent in reversed(path.relative_to(self.home).parents):
            (self.home / parent).mkdir(exist_ok=True, mode=0o755)
            os.chown(self.home / parent, self.uid, self.uid)
        path.write_text(text)
        path.chmod(mode)
        os.chown(path, self.uid, self.uid)

    def processes(self):
        """(pid as this process sees it, command line) of all that its user runs."""
        ours = os.readlink(f"/proc/{self.pid}/ns/pid")
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if os.readlink(entry / "ns/pid") == ours and entry.stat().st_uid == self.uid:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                    if any(words):
                        found.append((int(entry.name), b" ".join(words).decode(errors="replace").strip()))
            except OSError:  # it has just ended
                continue
        return found

    def files(self):
        """What its user has in /tmp and at home, but for the directory where an agent's lock comes and goes."""
        kept = [self.home / STATE, *(self.home / STATE).parents]
        return {
            path.relative_to(self.folder)
            for top in (self.temporary, self.home)
            for path in top.rglob("*")
            if path.lstat().st_uid == self.uid and path not in kept
        }

    @contextmanager
    def network(self):
        """Until the context ends, sockets that this thread opens are this machine's."""
        with open("/proc/thread-self/ns/net") as before, open(f"/proc/{self.pid}/ns/net") as there:
            _set_namespace(there)
            try:
                yield
            finally:
                _set_namespace(before)


def _set_namespace(file):
    if LIBC.setns(file.fileno(), 0) != 0:
        raise OSError(ctypes.get_errno(), "setns")
