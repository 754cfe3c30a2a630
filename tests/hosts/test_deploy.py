"""Containers, the Kubernetes manifest and the guide, as far as they can be checked without running them."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import click
import pytest
import yaml
import zmq

from coordinator.cli import root
from coordinator.config import is_presentable
from coordinator.fleet.hostfile import read_hostfile
from tests.hosts.room import ROOT
from worker.checkup.key_files import key_files

DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
IMAGES = [DEPLOY / "Dockerfile.cpu", DEPLOY / "Dockerfile.cuda"]
TEXTS = [ROOT / "docs/clusters.md", KUBERNETES / "README.md", KUBERNETES / "keys.sh"]


def documents():
    return list(yaml.safe_load_all((KUBERNETES / "stageline.yaml").read_text()))


def pods():
    template = documents()[0]["spec"]["leaderWorkerTemplate"]
    return {"leader": template["leaderTemplate"], "worker": template["workerTemplate"]}


def containers(pod):
    return pod["spec"]["initContainers"] + pod["spec"]["containers"]


def parsed(words):
    """Raises click.UsageError if these words, after `stageline`, are no command line of it."""
    command, context = root, click.Context(root)
    while isinstance(command, click.Group):
        name, *words = words
        command = command.get_command(context, name)
        assert command is not None, name
    return command.make_context(command.name, [str(word) for word in words])


def commands(path):
    """Command lines in a text: in code of a line's length or within a line."""
    text = path.read_text().replace("\\\n", " ")
    lines = re.findall(r"^ *(?:STAGELINE_\S+ +)?(stageline .+)$", text, re.MULTILINE)
    spans = re.findall(r"`(stageline [^`]+)`", text) + re.findall(r"\$\((?:STAGELINE_\S+ +)?(stageline [^)]+)\)", text)
    for line in lines + spans:
        words = shlex.split(line, comments=True)
        yield words[1 : next((at for at, word in enumerate(words) if word in ("|", ">", "&", "&&", ";")), len(words))]


COMMANDS = dict.fromkeys(tuple(words) for path in TEXTS for words in commands(path))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_written_command_is_a_real_one(words):
    parsed(words)


@pytest.mark.parametrize("role", ["leader", "worker"])
def test_a_pod_runs_a_real_command(role):
    (container,) = pods()[role]["spec"]["containers"]
    assert "command" not in container  # the image's entry point
    parsed(container["args"])


@pytest.mark.parametrize("role", ["leader", "worker"])
def test_a_pod_has_what_its_containers_mount_and_name(role):
    pod = pods()[role]
    volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
    mounted = {mount["name"] for container in containers(pod) for mount in container["volumeMounts"]}
    assert mounted == volumes
    given = {"LWS_LEADER_ADDRESS", "LWS_GROUP_SIZE", "LWS_WORKER_INDEX"}  # by LeaderWorkerSet, to every container
    for container in containers(pod):
        names = given | {variable["name"] for variable in container.get("env", ())}
        mounts = "".join(mount.get("subPathExpr", "") for mount in container["volumeMounts"])
        assert set(re.findall(r"\$\((\w+)\)", " ".join(container.get("args", ())) + mounts)) <= names


@pytest.mark.parametrize(("role", "needs"), [("leader", "allowed"), ("worker", "coordinator")])
def test_a_pods_keys_are_its_users_alone(tmp_path, role, needs):
    """Volumes are open to everybody, and so are the files of a secret."""
    (first,) = [each for each in containers(pods()[role]) if each["name"] == "keys"]
    secret, volume = tmp_path / "secret", tmp_path / "keys"
    for directory in (secret, volume):
        directory.mkdir()
        directory.chmod(0o777)
    key = "x" * 40
    for name, text in {"secret": key, "coordinator": key, "allowed": f"worker-1 {key}"}.items():
        (secret / name).write_text(text)
        (secret / name).chmod(0o644)
    words = [word.replace("/secret/", f"{secret}/").replace("/keys/", f"{volume}/") for word in first["command"]]
    subprocess.run(words, check=True)
    (container,) = pods()[role]["spec"]["containers"]
    (where,) = [word.removeprefix("--keys=/keys") for word in container["args"] if word.startswith("--keys=")]
    finding = key_files(volume / where.strip("/"))
    assert finding.level == "ok", finding
    assert (volume / where.strip("/") / needs).exists()


@pytest.mark.parametrize("role", ["leader", "worker"])
def test_no_container_is_root_or_may_become_it(role):
    pod = pods()[role]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] == 1000
    for container in pod["initContainers"] + pod["containers"]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False


def test_the_service_and_the_agents_find_the_coordinator():
    workers, service, claim = documents()
    leader = pods()["leader"]
    (container,) = leader["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    up = parsed(container["args"]).params
    assert up["port"] == str(ports["http"])
    assert up["control"].rpartition(":")[2] == str(ports["control"])
    (agent,) = pods()["worker"]["spec"]["containers"]
    assert f"--coordinator=tcp://$(LWS_LEADER_ADDRESS):{ports['control']}" in agent["args"]
    labels = leader["metadata"]["labels"] | {"leaderworkerset.sigs.k8s.io/name": workers["metadata"]["name"]}
    assert service["spec"]["selector"].items() <= labels.items()
    assert service["spec"]["ports"][0]["targetPort"] in ports
    assert claim["metadata"]["name"] in json.dumps(workers)


def test_the_hostfile_names_the_agents_as_they_name_themselves(tmp_path, monkeypatch):
    (script,) = [each["command"][-1] for each in containers(pods()["leader"]) if each["name"] == "hosts"]
    addresses = {"stageline-0-1.stageline.default": "10.1.0.1", "stageline-0-2.stageline.default": "10.1.0.2"}
    monkeypatch.setattr(socket, "gethostbyname", addresses.__getitem__)
    monkeypatch.setenv("LWS_LEADER_ADDRESS", "stageline-0.stageline.default")
    monkeypatch.setenv("LWS_GROUP_SIZE", "3")
    written = tmp_path / "hosts.json"
    exec(script.replace("/run/stageline/hosts.json", str(written)), {})
    hosts = read_hostfile(written).hosts
    assert {host.name: host.ips for host in hosts} == {"worker-1": ("10.1.0.1",), "worker-2": ("10.1.0.2",)}
    (agent,) = pods()["worker"]["spec"]["containers"]
    assert "--name=worker-$(LWS_WORKER_INDEX)" in agent["args"]


KUBECTL = """\
import json, pathlib, sys
if sys.argv[1] == "create":
    files = [word.split("=", 2)[1:] for word in sys.argv[5:] if word.startswith("--from-file=")]
    print(json.dumps({sys.argv[4]: {name: pathlib.Path(path).read_text() for name, path in files}}))
else:
    print(sys.stdin.read(), end="", file=open("applied", "a"))
"""


def test_the_keys_of_the_pods_fit_together(tmp_path):
    for name, words in {"stageline": ["-m", "coordinator.cli"], "kubectl": ["-c", KUBECTL]}.items():
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {shlex.join(words)} "$@"\n')
        program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    subprocess.run(["sh", KUBERNETES / "keys.sh", "2"], cwd=tmp_path, env=environment, check=True)
    secrets = {}
    for line in (tmp_path / "applied").read_text().splitlines():
        secrets |= json.loads(line)
    coordinator, workers = secrets["stageline-coordinator"], secrets["stageline-workers"]
    assert set(coordinator) == {"secret", "allowed", "api-key"}
    assert set(workers) == {"coordinator", "worker-1", "worker-2"}
    allowed = "".join(f"{name} {public(workers[name])}\n" for name in ("worker-1", "worker-2"))
    assert coordinator["allowed"] == allowed
    assert workers["coordinator"].strip() == public(coordinator["secret"])
    assert is_presentable(coordinator["api-key"])
    mounts = containers(pods()["worker"])[0]["volumeMounts"]
    named = {
        mount.get("subPath") or mount.get("subPathExpr", "").replace("$(LWS_WORKER_INDEX)", "1") for mount in mounts
    }
    assert named - {""} == {"coordinator", "worker-1"}


def public(secret):
    return zmq.curve_public(secret.strip().encode()).decode()


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.suffix[1:])
def test_an_image_is_built_from_files_that_are_there(path):
    text = path.read_text()
    sources = [word for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE) for word in line.split()]
    assert len(sources) > 5
    assert all((ROOT / source).exists() for source in sources)
    (lock,) = re.findall(r"--require-hashes -r (\S+)", text)
    assert lock in sources
    assert re.search(r"^USER 1000:1000$", text, re.MULTILINE)
    assert 'ENTRYPOINT ["stageline"]' in text


def test_images_differ_in_their_lock_and_what_a_gpu_needs():
    cpu, cuda = (set(path.read_text().partition("\nFROM ")[2].splitlines()) for path in IMAGES)
    differing = {line.strip() for line in cpu ^ cuda}
    assert all("lock" in line or line.startswith("NVIDIA_") for line in differing), differing


@pytest.mark.parametrize("status", [200, 503])
def test_an_image_is_healthy_while_the_cluster_is_ready(status):
    (words,) = re.findall(r"^HEALTHCHECK .*\\\n +CMD (\[.*\])$", IMAGES[0].read_text(), re.MULTILINE)
    asked = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        environment = {**os.environ, "STAGELINE_PORT": str(server.server_port), "no_proxy": "*"}
        command = [sys.executable, *json.loads(words)[1:]]
        done = subprocess.run(command, env=environment, capture_output=True, timeout=10)
        thread.join()
    assert asked == ["/ready"]
    assert (done.returncode == 0) == (status == 200)
