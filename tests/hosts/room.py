"""A room with a desk and three hosts on one switch: network, names, users, and ssh from the desk to the hosts."""

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.hosts.cable import Cable
from tests.hosts.machine import Machine

ROOT = Path(__file__).parents[2]
TOOLS = ("unshare", "nsenter", "setpriv", "ip", "bridge", "ssh", "ssh-keygen", "/usr/sbin/sshd")
DESK = "desk"
HOSTS = {"ash": "ann", "birch": "ben", "cedar": "cem"}  # a user of its own on each
OTHERS = {"localhost": "127.0.0.1", "oak": "10.77.0.9"}  # nobody is at oak's address

SSHD = """\
HostKey {services}/host_key
UsePAM no
PasswordAuthentication no
"""


def require_machines():
    """Skips the test where machines cannot be made; fails there if `.ci/run` has seen to it that they can."""
    missing = [name for name in TOOLS if shutil.which(name) is None]
    if os.geteuid() != 0:
        reason = "only root can make network namespaces"
    elif missing:
        reason = f"no {', '.join(missing)}: `apt-get install openssh-server iproute2` brings them"
    elif subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True).returncode:
        reason = "no network namespaces can be made here"
    else:
        return
    if os.environ.get("STAGELINE_REQUIRE_HOSTS"):
        pytest.fail(f"{reason}, although STAGELINE_REQUIRE_HOSTS says so")
    pytest.skip(reason)


class Room:
    """`desk` is where a person sits, `hosts` are by name; each host has an sshd that knows the desk's key."""

    def __init__(self, folder, *, shown):
        folder.chmod(0o755)
        names = [DESK, *HOSTS]
        addresses = {name: f"10.77.0.{number}" for number, name in enumerate(names, 1)}
        listed = "".join(f"{address} {name}\n" for name, address in {**addresses, **OTHERS}.items())
        self.machines = {
            name: Machine(
                folder / name, name, addresses[name], HOSTS.get(name, "dan"), 61000 + number, shown=shown, hosts=listed
            )
            for number, name in enumerate(names)
        }
        self.desk = self.machines[DESK]
        self.hosts = {name: self.machines[name] for name in HOSTS}
        self._allow()

    def _allow(self):
        """The desk's key opens every host, and the desk knows every host's key."""
        keys = self.desk.folder / "key"
        _keygen(keys)
        self.desk.write(".ssh/id_ed25519", keys.read_text(), 0o600)
        known = ""
        for host in self.hosts.values():
            _keygen(host.services / "host_key")
            kind, key, *_ = (host.services / "host_key.pub").read_text().split()
            known += f"{host.name},{host.address} {kind} {key}\n"
            host.write(".ssh/authorized_keys", keys.with_suffix(".pub").read_text())
            (host.services / "sshd_config").write_text(SSHD.format(services=host.services))
        self.desk.write(".ssh/known_hosts", known)

    @contextmanager
    def running(self):
        """All machines up and connected, until the context ends."""
        with ExitStack() as stack:
            for machine in self.machines.values():
                services = [f"/usr/sbin/sshd -D -e -f {machine.services}/sshd_config"] if machine.name in HOSTS else []
                stack.callback(machine.stop)
                machine.start(*services)
            self._connect()
            yield self

    def _connect(self):
        # the switch is in the desk's namespace, and the desk's own address is the switch's
        lines = ["link add switch type bridge", "link set switch up", f"addr add {self.desk.address}/24 dev switch"]
        for host in self.hosts.values():
            lines.append(f"link add {host.name} type veth peer name eth0 netns {host.pid}")
            lines.append(f"link set {host.name} master switch up")
        self._ip(self.desk, lines)
        for host in self.hosts.values():
            self._ip(host, [f"addr add {host.address}/24 dev eth0", "link set eth0 up"])

    def _ip(self, machine, lines):
        command = ["nsenter", f"--target={machine.pid}", "--net", "ip", "-batch", "-"]
        subprocess.run(command, input="\n".join(lines), text=True, check=True)

    @contextmanager
    def unplugged(self, name):
        """The host's frames get lost, without a word to anyone, until the context ends."""
        self._ip(self.desk, [f"link set {name} nomaster"])
        try:
            yield
        finally:
            self._ip(self.desk, [f"link set {name} master switch"])

    @contextmanager
    def delayed(self, name, peer, seconds):
        """What the two hosts say to each other takes this much longer each way, until the context ends."""
        self._ip(
            self.desk,
            [
                "link add near type veth peer name far",
                f"link set {name} nomaster",
                "link set far master switch up",
                "link set near up",
            ],
        )
        try:
            with self.desk.network():
                cable = Cable(name, "near", self.hosts[peer].address, seconds)
            with cable:
                yield
        finally:
            self._ip(self.desk, ["link del near", f"link set {name} master switch"])


def _keygen(path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", path], check=True)


def shown(*more):
    """What every machine shows to its user: this checkout and the interpreter, and more."""
    paths = sorted({ROOT, Path(sys.prefix), Path(sys.base_prefix), *more})
    return [path for path in paths if not any(path != other and path.is_relative_to(other) for other in paths)]
