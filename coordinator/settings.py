"""Every setting of `stageline up`, with its type, bounds, built-in value and description."""

from typing import Annotated

import msgspec
from msgspec import Meta

Text = Annotated[str, Meta(min_length=1)]
Count = Annotated[int, Meta(ge=1)]
Context = Annotated[int, Meta(ge=2)]  # a token of the prompt and one of the answer
Natural = Annotated[int, Meta(ge=0)]
Port = Annotated[int, Meta(ge=0, le=65535)]
Seconds = Annotated[float, Meta(gt=0, le=86400)]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `stageline up` runs."""

    model: Annotated[
        Text | None,
        Meta(description="checkpoint: a directory or a hub id; none is the demo model", examples=["org/model"]),
    ] = None
    model_name: Annotated[
        Text | None,
        Meta(description="the model's name in the API; none is the last part of `model`", examples=["nemotron"]),
    ] = None
    stages: Annotated[
        Count | None,
        Meta(
            description="number of stages, at most the model's layers; none is 2, and with `hosts` one for each GPU",
            examples=[2],
        ),
    ] = None
    lock: Annotated[
        Text | None,
        Meta(
            description="file with the split to use, written if it is not there; as `stageline plan --lock`",
            examples=["plan.json"],
        ),
    ] = None
    quantize: Annotated[
        Text | None,
        Meta(
            description="quantise an unquantised checkpoint on load: BITS:GROUP, mxfp4, nvfp4 or mxfp8",
            examples=["8:32"],
        ),
    ] = None
    context: Annotated[
        Context | None,
        Meta(description="longest sequence in tokens, prompt and answer; none is the model's own", examples=[32768]),
    ] = None
    answer_tokens: Annotated[
        Count,
        Meta(
            description="longest answer to a request that names no limit: memory is set aside for the longest answer "
            "that a request may get"
        ),
    ] = 32768
    prefill_chunk: Annotated[
        Count, Meta(description="most tokens of a prompt that a stage takes at a time, best a multiple of 64")
    ] = 512
    decode_pause: Annotated[
        Seconds,
        Meta(
            description="seconds for which such a piece may hold up running answers on a stage; slow stages take "
            "smaller pieces"
        ),
    ] = 0.25
    max_running: Annotated[
        Count | None, Meta(description="requests that run at the same time; none is 8 for each stage", examples=[16])
    ] = None
    max_waiting: Annotated[
        Natural, Meta(description="requests that wait for a place; others are told to come again (429)")
    ] = 32
    queue_timeout: Annotated[Seconds, Meta(description="seconds that a request waits for a place at most")] = 300.0
    request_timeout: Annotated[Seconds, Meta(description="seconds that a request takes at most, in all")] = 3600.0
    state_bytes: Annotated[
        Count | None,
        Meta(
            description="bytes on each stage for the state of running requests; none is what the machine has left",
            examples=[4_000_000_000],
        ),
    ] = None
    snapshot_bytes: Annotated[
        Natural | None,
        Meta(
            description="bytes on each stage for snapshots of prompts, which later prompts begin from; 0 takes none; "
            "none is a quarter of what the machine has left, at most 2 GiB",
            examples=[1_000_000_000],
        ),
    ] = None
    snapshot_dir: Annotated[
        Text | None,
        Meta(
            description="directory where snapshots outlive a restart; none keeps them in memory only",
            examples=["/var/lib/stageline"],
        ),
    ] = None

    hosts: Annotated[
        Text | None,
        Meta(
            description="mlx.launch's hostfile: run the stages on these hosts; none is this machine alone",
            examples=["hosts.json"],
        ),
    ] = None
    launch: Annotated[
        bool,
        Meta(
            description="start the hosts' agents, by mlx.launch over ssh; false waits for agents that run as services"
        ),
    ] = True
    python: Annotated[
        Text | None,
        Meta(
            description="Python with stageline on the hosts; none is the path of the one that runs here",
            examples=["/opt/stageline/bin/python"],
        ),
    ] = None
    control: Annotated[
        Text | None,
        Meta(
            description="IP:PORT of this machine that agents dial; none is the address on the way to each host and any "
            "free port",
            examples=["10.0.0.1:8011"],
        ),
    ] = None
    keys: Annotated[
        Text | None,
        Meta(
            description="directory of keys, here and on the hosts; none is ~/.config/stageline/keys",
            examples=["/etc/stageline/keys"],
        ),
    ] = None

    host: Annotated[Text, Meta(description="address to serve HTTP on")] = "127.0.0.1"
    port: Annotated[Port, Meta(description="port to serve HTTP on; 0 is any free one")] = 8000
    api_key: Annotated[
        Text | None,
        Meta(description="key that clients must present; none asks for none", examples=["a long random text"]),
    ] = None
    insecure: Annotated[
        bool, Meta(description="allow an address other than loopback without an API key, and hosts without keys")
    ] = False

    loading_timeout: Annotated[Seconds, Meta(description="seconds of loading without progress, then it has failed")] = (
        300.0
    )
    heartbeat_timeout: Annotated[Seconds, Meta(description="seconds of silence after which a stage is lost")] = 10.0
    restart_delay: Annotated[
        Seconds, Meta(description="seconds before a lost stage starts again; doubles with each failure in a row")
    ] = 0.5
    restart_delay_limit: Annotated[Seconds, Meta(description="longest delay before a restart, in seconds")] = 30.0
