"""Real agents with real workers, under a coordinator that the test plays."""

import asyncio
import os
import platform
import shutil
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from coordinator.cli import run
from coordinator.demo import demo_model
from tests.worker.agent import playing
from tests.worker.agent.playing import Agent, Coordinator
from worker.agent import agent as agent_module
from worker.agent.address import Endpoint
from worker.agent.messages import (
    Beat,
    End,
    Ended,
    Hail,
    Idle,
    Kill,
    Leave,
    Peer,
    Start,
    Started,
    Survey,
    Surveyed,
)
from worker.agent.session import Session
from worker.agent.settings import AgentSettings
from worker.checkpoint.model_hash import model_hash
from worker.errors import ClusterError, ConfigError
from worker.protocol import PROTOCOL_VERSION, Assign, Hello, Loaded, Stop

needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/environ"), reason="needs Linux's /proc")


@pytest.fixture
def stack() -> Any:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def coordinator(stack: ExitStack) -> Coordinator:
    return stack.enter_context(playing.coordinator())


@pytest.fixture
def agent(stack: ExitStack, coordinator: Coordinator) -> Agent:
    return stack.enter_context(playing.agent(coordinator.endpoint))


def started(coordinator: Coordinator, who: str, stage: int = 0, session: str = "first", **fields: Any) -> int:
    """The pid of a worker that has said hello."""
    coordinator.say(who, Start(stage=stage, stages=2, session=session, **fields))
    answer = coordinator.hear(Started)[1]
    assert (answer.stage, answer.session, answer.problem) == (stage, session, "")
    sender, hello = coordinator.hear(Hello)
    assert (sender, hello.pid, hello.host) == (f"stage-{stage}/{session}", answer.pid, "here")
    return answer.pid


def test_it_hails_until_it_is_surveyed(coordinator: Coordinator, agent: Agent) -> None:
    who, hail = coordinator.hear(Hail)
    assert who.startswith("agent-here/")
    assert (hail.protocol, hail.name, hail.pid, hail.address) == (PROTOCOL_VERSION, "here", agent.pid, "127.0.0.1")
    assert hail.versions.python == platform.python_version()
    assert abs(hail.clock - time.time()) < 5
    assert hail.devices
    assert all(device.memory_bytes > 1 << 28 for device in hail.devices)
    assert coordinator.hear(Hail)[0] == who
    coordinator.say(who, Survey(model="", peers=(), silence=5))
    assert coordinator.hear(Surveyed)[0] == who
    assert coordinator.hear(Beat)[1].number == 1
    with pytest.raises(AssertionError, match="no Hail"):
        coordinator.hear(Hail, seconds=1.5)


def test_a_survey_is_answered_at_any_time(coordinator: Coordinator, agent: Agent) -> None:
    who, hail, first = coordinator.surveyed(model="/nowhere/at/all")
    assert (first.model_hash, first.round_trips, first.findings) == ("", (), ())
    assert first.problem.startswith("/nowhere/at/all: no such directory")
    model = str(demo_model())
    peer = Peer(name="itself", echo=hail.echo, key="")
    coordinator.say(who, Survey(model=model, peers=(peer,), silence=5, measure=True, checks=True))
    answer = coordinator.hear(Surveyed)[1]
    assert (answer.model_hash, answer.problem) == (model_hash(model), "")
    (trip,) = answer.round_trips
    assert (trip.peer, trip.nbytes, trip.problem) == ("itself", 8192, "")
    assert 0 < trip.seconds < 0.1
    assert all(device.bandwidth > 1e8 for device in answer.devices)
    assert {finding.check for finding in answer.findings} >= {"versions", "memory"}


def test_a_peer_that_does_not_answer(coordinator: Coordinator, agent: Agent) -> None:
    peer = Peer(name="gone", echo="tcp://127.0.0.1:9", key="")
    (trip,) = coordinator.surveyed(peers=(peer,))[2].round_trips
    assert (trip.peer, trip.seconds) == ("gone", 0)
    assert trip.problem.startswith("no answer from tcp://127.0.0.1:9 within 5 s: check the network")


def test_workers_load_and_end_in_order(coordinator: Coordinator, agent: Agent) -> None:
    who, _, _ = coordinator.surveyed()
    pids = [started(coordinator, who, stage) for stage in (0, 1)]
    assign = Assign(stage=0, stages=2, model=str(demo_model()), first=0, end=2, quantize=None)
    coordinator.say("stage-0/first", assign)
    assert coordinator.hear(Loaded)[0] == "stage-0/first"
    coordinator.say("stage-0/first", Stop())
    coordinator.say(who, End(hearing=(0,)))
    reasons = {coordinator.hear(Ended)[1].reason for _ in pids}
    assert reasons == {"process ended with status 0"}
    assert coordinator.hear(Idle)[0] == who
    assert all(playing.gone(pid, 0.1) for pid in pids)
    started(coordinator, who, 0, "second")


def test_a_worker_is_killed_and_started_again(coordinator: Coordinator, agent: Agent) -> None:
    who, _, _ = coordinator.surveyed()
    started(coordinator, who)
    coordinator.say(who, Start(stage=0, stages=2, session="too early"))
    problem = coordinator.hear(Started)[1]
    assert (problem.session, problem.pid) == ("too early", 0)
    assert problem.problem == "stage 0's worker first has not ended yet"
    coordinator.say(who, Kill(stage=0, session="too early"))
    coordinator.say(who, Kill(stage=0, session="first"))
    ended = coordinator.hear(Ended)[1]
    assert (ended.stage, ended.session, ended.reason) == (0, "first", "process was ended by SIGKILL")
    started(coordinator, who, session="second")


@needs_proc
@pytest.mark.parametrize("card", [3, None])
def test_a_worker_gets_its_card(coordinator: Coordinator, stack: ExitStack, card: int | None) -> None:
    """The environment of a real worker process, as the system says it was started."""
    stack.enter_context(playing.agent(coordinator.endpoint, CUDA_VISIBLE_DEVICES="0,3,5", CUDA_DEVICE_ORDER=""))
    who, _, _ = coordinator.surveyed()
    found = playing.environment_of(started(coordinator, who, card=card))
    expected = ("0,3,5", "") if card is None else (str(card), "PCI_BUS_ID")
    assert (found["CUDA_VISIBLE_DEVICES"], found["CUDA_DEVICE_ORDER"]) == expected
    assert found["PATH"] == os.environ["PATH"]


@needs_proc
@pytest.mark.parametrize("way", ["leave", "SIGTERM", "SIGHUP", "standard input"])
def test_nothing_is_left_when_it_leaves(coordinator: Coordinator, agent: Agent, way: str) -> None:
    who, _, _ = coordinator.surveyed()
    pids = [started(coordinator, who, stage) for stage in (0, 1)]
    runtime = playing.runtime_of(pids[0])
    assert runtime.stat().st_mode & 0o777 == 0o700
    if way == "leave":
        coordinator.say(who, Leave(reason="the cluster ends"))
    elif way == "standard input":
        assert agent.process.stdin is not None
        agent.process.stdin.close()
    else:
        agent.process.send_signal(signal.Signals[way])
    assert {coordinator.hear(Ended)[1].reason for _ in pids} == {"process ended with status 0"}
    assert agent.ends() == 0
    assert all(playing.gone(pid, 0.1) for pid in pids)
    assert not runtime.exists()
    assert "Traceback" not in agent.log


@needs_proc
def test_workers_leave_when_the_agent_is_killed(coordinator: Coordinator, agent: Agent) -> None:
    who, _, _ = coordinator.surveyed()
    pids = [started(coordinator, who, stage) for stage in (0, 1)]
    runtime = playing.runtime_of(pids[0])
    agent.process.kill()
    assert all(playing.gone(pid) for pid in pids)
    assert not runtime.exists()


@needs_proc
def test_workers_start_after_the_system_has_cleaned_up(coordinator: Coordinator, agent: Agent) -> None:
    """An agent may wait in /tmp for longer than files live there."""
    who, _, _ = coordinator.surveyed()
    pid = started(coordinator, who)
    runtime = playing.runtime_of(pid)
    coordinator.say(who, Kill(stage=0, session="first"))
    coordinator.hear(Ended)
    shutil.rmtree(runtime)
    assert playing.runtime_of(started(coordinator, who, session="second")) == runtime
    assert runtime.stat().st_mode & 0o777 == 0o700


@needs_proc
def test_workers_without_keys_are_told_so(coordinator: Coordinator, agent: Agent) -> None:
    who, _, _ = coordinator.surveyed()
    words = Path(f"/proc/{started(coordinator, who)}/cmdline").read_bytes().decode().split("\0")
    assert "--insecure" in words
    assert "--keys" not in words


@pytest.fixture
def waking_driver(tmp_path: Path) -> str:
    """A PATH with an nvidia-smi that fails the first time."""
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text(
        f"#!/bin/sh\n[ -e {tmp_path}/asked ] && echo '0, GPU-a, 1024, NVIDIA H200' && exit\n"
        f"touch {tmp_path}/asked\necho 'no driver'\nexit 9\n"
    )
    smi.chmod(0o755)
    return f"{smi.parent}:{os.environ['PATH']}"


def test_cards_that_did_not_answer_are_asked_again(
    coordinator: Coordinator, stack: ExitStack, waking_driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    agent = stack.enter_context(playing.agent(coordinator.endpoint, PATH=waking_driver))
    who, first = coordinator.hear(Hail)
    assert [device.card for device in first.devices] == [None]
    assert "nvidia-smi failed with status 9: no driver" in agent.log
    coordinator.socket.close()
    coordinator.open(coordinator.endpoint)
    again, second = coordinator.hear(Hail)
    assert again != who
    assert [device.card for device in second.devices] == [0]


def test_cards_are_asked_again_while_nobody_listens(
    waking_driver: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", waking_driver)
    monkeypatch.setattr(agent_module, "PATIENCE_SECONDS", 5)
    monkeypatch.setattr(agent_module, "CARDS_SECONDS", 0.5)
    sessions: list[Any] = []

    class Watched(Session):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            sessions.append([device.card for device in named["devices"]])
            super().__init__(*arguments, **named)

    monkeypatch.setattr(agent_module, "Session", Watched)
    with pytest.raises(ClusterError, match="nothing listens"):
        alone("tcp://127.0.0.1:9")
    assert sessions == [[None], [0]]
    assert caplog.text.count("nvidia-smi failed") == 1


def test_a_silent_coordinator_is_lost(coordinator: Coordinator, agent: Agent) -> None:
    who, _, _ = coordinator.surveyed(silence=1.5)
    pid = started(coordinator, who)
    coordinator.beating = False
    again, _ = coordinator.hear(Hail)
    assert again.startswith("agent-here/")
    assert again != who
    assert playing.gone(pid, 0.1)
    assert "nothing was heard of the coordinator for 1.5 s; hailing anew" in agent.log
    coordinator.beating = True
    assert coordinator.surveyed()[0] == again
    started(coordinator, again, session="second")


def test_a_coordinator_that_is_started_again(coordinator: Coordinator, agent: Agent) -> None:
    """On the same port, before any survey: the agent has a new name then."""
    who, _ = coordinator.hear(Hail)
    coordinator.socket.close()
    coordinator.open(coordinator.endpoint)
    assert coordinator.hear(Hail)[0] != who


def test_one_that_stays_comes_back_after_leave(coordinator: Coordinator, stack: ExitStack) -> None:
    agent = stack.enter_context(playing.agent(coordinator.endpoint, "--stay"))
    assert agent.process.stdin is not None
    agent.process.stdin.close()
    who, _, _ = coordinator.surveyed()
    pid = started(coordinator, who)
    coordinator.say(who, Leave(reason="the cluster ends"))
    assert coordinator.hear(Hail)[0] != who
    assert playing.gone(pid, 0.1)
    agent.process.terminate()
    assert agent.ends() == 0


@pytest.mark.parametrize(
    "frame", [b"", b"\xc1", b"\x81\xa4kind\xa4hail"], ids=["empty", "no msgpack", "not for agents"]
)
def test_nonsense_from_the_coordinator_is_dropped(coordinator: Coordinator, agent: Agent, frame: bytes) -> None:
    who, _ = coordinator.hear(Hail)
    coordinator.socket.send_multipart([who.encode(), frame])
    agent.says("dropped a message of the coordinator")
    assert coordinator.surveyed()[0] == who


def test_it_waits_for_its_predecessor(coordinator: Coordinator, agent: Agent, stack: ExitStack) -> None:
    """A launcher starts the next agent while the last one still ends its workers."""
    first, _, _ = coordinator.surveyed()
    stack.enter_context(playing.agent(coordinator.endpoint))
    with pytest.raises(AssertionError, match="no Hail"):
        coordinator.hear(Hail, seconds=1.5)
    agent.process.terminate()
    assert coordinator.surveyed()[0] != first


def alone(endpoint: str, address: str | None = None) -> None:
    """An agent in this process."""
    settings = AgentSettings(coordinator=endpoint, name="here", address=address, keys=None, stay=False)

    async def live() -> None:
        await agent_module.Agent(settings, asyncio.get_running_loop().create_future()).run()

    asyncio.run(live())


def test_a_second_one_gives_up(coordinator: Coordinator, agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    coordinator.surveyed()
    monkeypatch.setattr(agent_module, "PATIENCE_SECONDS", 0.5)
    with pytest.raises(ClusterError, match=f"here has another agent for .*, with pid {agent.pid}: end it"):
        alone(coordinator.endpoint)


def test_without_a_coordinator_it_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_module, "PATIENCE_SECONDS", 2.5)
    with pytest.raises(ClusterError, match=r"no connection to the coordinator at .*:9: nothing listens"):
        alone("tcp://127.0.0.1:9")


def test_its_own_address_that_is_gone_is_named() -> None:
    with pytest.raises(ConfigError, match=r"cannot listen at tcp://192\.0\.2\.7:\*: .*: correct its `ips`"):
        alone("tcp://127.0.0.1:9", "192.0.2.7")


def test_a_coordinators_address_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AgentSettings, "endpoint", Endpoint("127.0.0.1", 9))  # or the command line would be refused
    with pytest.raises(ConfigError, match="tcp://nonsense cannot be dialled: Invalid argument: correct --coordinator"):
        alone("tcp://nonsense")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--coordinator", "10.0.0.1:80"], "expected tcp://ADDRESS:PORT"),
        (["--coordinator", "tcp://10.0.0.1"], "expected tcp://ADDRESS:PORT"),
        (["--name", "a/b"], "expected this host's name in the hostfile"),
        (["--address", "nine"], "is not an IP address"),
        (["--address", "192.0.2.7"], "this machine does not have it"),
        (["--insecure", "--keys", "/nowhere"], "contradict each other"),
        (["--keys", "/nowhere"], "/nowhere/secret: no such file: `stageline keys new` makes this host's keys"),
        (["--coordinator", "tcp://10.0.0.1:80"], "no such file: `stageline keys new`"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_options_are_the_users_mistake(
    options: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("STAGELINE_KEYS", str(tmp_path))
    given = {"--coordinator": "tcp://127.0.0.1:9", "--name": "here"}
    words = [word for pair in given.items() if pair[0] not in options for word in pair] + options
    assert run(["agent", "run", *words]) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1


def test_a_launcher_sees_one_line_and_the_status_too() -> None:
    with playing.agent("10.0.0.1:80") as agent:
        assert agent.ends() == 2
        assert agent.log.startswith("stageline: error: --coordinator '10.0.0.1:80': expected tcp://ADDRESS:PORT")
        assert agent.log.count("\n") == 1
