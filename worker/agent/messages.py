"""What the coordinator and the agents of its hosts say to each other, over the sockets that workers use too.

An agent says `Hail` until it is answered by `Survey`, which it answers by `Surveyed`; then it starts and ends workers
as it is told. Both sides send `Beat`s; a side that hears none for `silence` seconds takes the other for lost. An agent
that lost its coordinator ends its workers and hails anew, under a new session.

The agent's routing id is `agent-<name>/<session>`.
"""

from typing import Literal

import msgspec

from worker.protocol import Message


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """What a stage can run on: a Mac's GPU, an NVIDIA card, or the processor.

    `chip` is its name as `coordinator/plan/machines.toml` spells it, or what the machine calls it. `card` is the number
    of an NVIDIA card, None for anything else. `bandwidth` is measured, in bytes a second, 0 where it was not.
    """

    chip: str
    memory_bytes: int
    card: int | None = None
    bandwidth: float = 0.0


class Versions(msgspec.Struct, frozen=True, kw_only=True):
    """What runs on a host; `mlx` names its CUDA package too, if there is one."""

    stageline: str
    python: str
    mlx: str


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `stageline doctor`: what was looked at, what was found, and what to do about it ("" if nothing)."""

    check: str
    level: Literal["ok", "warn", "fail"]
    found: str
    fix: str = ""


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """Another host: where its agent's echo listens, and its public key, "" in a cluster without keys."""

    name: str
    echo: str
    key: str


class RoundTrip(msgspec.Struct, frozen=True, kw_only=True):
    """Median seconds to a peer and back with `nbytes` each way; `problem` says why there are none."""

    peer: str
    seconds: float
    nbytes: int
    problem: str = ""


# --- agent -> coordinator ------------------------------------------------------------------------------------------


class Hail(Message, frozen=True, kw_only=True):
    """An agent lives. `address` is this host's IP address as the coordinator's hosts reach it, `echo` its echo socket.

    `clock` is its wall clock in seconds since 1970: only to tell the user of clocks that differ.
    """

    protocol: int
    name: str
    pid: int
    address: str
    echo: str
    versions: Versions
    platform: str
    devices: tuple[Device, ...]
    clock: float


class Surveyed(Message, frozen=True, kw_only=True):
    """The answer to `Survey`. `model_hash` is "" if the model cannot be found, and `problem` says why."""

    model_hash: str
    problem: str
    round_trips: tuple[RoundTrip, ...]
    devices: tuple[Device, ...]
    findings: tuple[Finding, ...] = ()


class Started(Message, frozen=True, kw_only=True):
    """A worker process was started. `pid` 0: it could not be, `problem` says why."""

    stage: int
    session: str
    pid: int
    problem: str = ""


class Ended(Message, frozen=True, kw_only=True):
    """A worker process has ended and is reaped."""

    stage: int
    session: str
    reason: str


class Idle(Message, frozen=True, kw_only=True):
    """The answer to `End`: no worker is left on this host."""


# --- coordinator -> agent ------------------------------------------------------------------------------------------


class Survey(Message, frozen=True, kw_only=True):
    """Look for the model, measure the way to every peer, and with `measure` the memory's bandwidth; `checks`: look at
    this machine too. `model` "" asks for no model. Beats come from now on; `silence` is when to give up on them."""

    model: str
    peers: tuple[Peer, ...]
    silence: float
    measure: bool = False
    checks: bool = False


class Start(Message, frozen=True, kw_only=True):
    """Start the worker of a stage; it dials the coordinator itself. `card` is the NVIDIA card that it gets."""

    stage: int
    stages: int
    session: str
    card: int | None = None


class Kill(Message, frozen=True, kw_only=True):
    """End a worker that does not answer any more."""

    stage: int
    session: str


class End(Message, frozen=True, kw_only=True):
    """End all workers in order; those not `hearing` do not read messages and get a SIGTERM at once."""

    hearing: tuple[int, ...]


class Leave(Message, frozen=True, kw_only=True):
    """End all workers, then the agent itself."""

    reason: str


# --- both ways -----------------------------------------------------------------------------------------------------


class Beat(Message, frozen=True, kw_only=True):
    """The agent sends one a second, the coordinator sends it back. `refused`: connections that its echo turned away so
    far, by reason."""

    number: int
    refused: dict[str, int] = msgspec.field(default_factory=dict[str, int])


FromAgent = Hail | Surveyed | Started | Ended | Idle | Beat
ToAgent = Survey | Start | Kill | End | Leave | Beat
