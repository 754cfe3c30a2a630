"""A worker's Prometheus series: what each means. `collector` fills them; the label `stage` is on all of them."""

from typing import Literal

from worker.telemetry.series import STEP_BUCKETS, Series

# a hop takes tens of microseconds; a message may have to wait for a long prompt's step
SHORT_BUCKETS = (1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0)

NOT_LOADED = "until the stage is loaded"
NO_STEP = "until the first step of the phase"
NO_SAMPLE = "until 16 decode steps have run and one more is measured"


def _gauge(name: str, unit: str, meaning: str, *labels: str, empty: str = "") -> Series:
    return _series(name, "gauge", unit, meaning, labels, empty)


def _counter(name: str, unit: str, meaning: str, *labels: str, empty: str = "") -> Series:
    return _series(name, "counter", unit, meaning, labels, empty)


def _seconds(name: str, meaning: str, *labels: str, buckets: tuple[float, ...], empty: str) -> Series:
    return _series(name, "histogram", "seconds", meaning, labels, empty, buckets)


def _series(
    name: str,
    kind: Literal["gauge", "counter", "histogram"],
    unit: str,
    meaning: str,
    labels: tuple[str, ...],
    empty: str,
    buckets: tuple[float, ...] = (),
) -> Series:
    return Series(
        name=f"stageline_stage_{name}",
        kind=kind,
        unit=unit,
        meaning=meaning,
        labels=("stage", *labels),
        buckets=buckets,
        empty=empty,
    )


INFO = _gauge(
    "info",
    "1",
    "Always 1; says which layers run where, and by which version",
    *("layers", "pattern", "backend", "host", "version"),
    empty=NOT_LOADED,
)
LAYERS = _gauge("layers", "layers", "Layers of a kind: mamba, moe, attention or mlp", "kind", empty=NOT_LOADED)
FUSED_LAYERS = _gauge(
    "fused_layers", "layers", "Layers that decode through fused kernels; 0 without a GPU", empty=NOT_LOADED
)
FALLBACK_STEPS = _counter(
    "fallback_steps_total", "steps", "Decode steps that could not use the fused kernels: too many sequences, or no GPU"
)
PARAMETER_BYTES = _gauge("parameter_bytes", "bytes", "Weights in memory", empty=NOT_LOADED)
STATE_BYTES = _gauge("state_bytes", "bytes", "Convolution tails, SSM states, keys and values of all sequences")
SNAPSHOT_BYTES = _gauge("snapshot_bytes", "bytes", "Snapshots in memory, which later requests begin from")
SEQUENCES = _gauge("sequences", "sequences", "Sequences whose state the stage holds")
MEMORY_ACTIVE_BYTES = _gauge("memory_active_bytes", "bytes", "What MLX holds in arrays")
MEMORY_PEAK_BYTES = _gauge("memory_peak_bytes", "bytes", "The most that MLX has held since the worker started")
EPOCH = _gauge("epoch", "number", "The epoch of the stage's links; 0 before the first one")
IN_FLIGHT = _gauge("in_flight_steps", "steps", "Steps that have started and are not handed over")
CREDITS = _gauge("credits", "messages", "Messages that may still be sent to the next stage; 0 before the first epoch")

COMPUTE_SECONDS = _seconds(
    "compute_seconds",
    "From a step's start, building of the graph included, until its result is there",
    "phase",
    buckets=STEP_BUCKETS,
    empty=NO_STEP,
)
QUEUE_SECONDS = _seconds(
    "queue_seconds",
    "From the arrival of what a step needs until its start",
    "phase",
    buckets=SHORT_BUCKETS,
    empty=NO_STEP,
)
ENCODE_SECONDS = _seconds(
    "encode_seconds", "From a step's result to its hand-over", "phase", buckets=SHORT_BUCKETS, empty=NO_STEP
)
WAIT_SECONDS = _seconds(
    "wait_seconds",
    "A bubble: requests are open, and what the next step needs has not arrived",
    buckets=STEP_BUCKETS,
    empty="until a stage has waited between two steps",
)
HOP_SECONDS = _seconds(
    "hop_seconds",
    "On the wire from this stage to the next one, measured for one decode message in 16 at most",
    buckets=SHORT_BUCKETS,
    empty="in a cluster of one stage, and until a decode message finds both of its stages waiting",
)
HOP_BYTES = _counter("hop_bytes_total", "bytes", "Headers and tensors sent to the next stage")
ROWS = _counter("rows_total", "positions", "Positions computed: tokens of prompts and of answers", "phase")
DUPLICATES = _counter("duplicates_total", "messages", "Messages of rows that were applied before; dropped")
GAPS = _counter("gaps_total", "messages", "Messages of rows that were not the next ones; they end the epoch")
STALE_MESSAGES = _counter("stale_messages_total", "messages", "Messages of an earlier epoch; dropped")
REFUSED = _counter(
    "refused_connections_total",
    "connections",
    "Connections to the stage's data link that were turned away; none in a cluster without keys",
    "reason",
)
LAYER_SECONDS = _counter(
    "layer_seconds_total",
    "seconds",
    "Time by kind of layer in measured decode steps; kind `ends` is embedding, final norm, head and sampler",
    "kind",
    empty=NO_SAMPLE,
)
SAMPLED_STEPS = _counter("sampled_steps_total", "steps", "Decode steps that were measured by kind of layer")
READ_RATE = _gauge(
    "read_bytes_per_second",
    "bytes per second",
    "Weight bytes that the last 64 decode steps had to read, by their compute time; 0 before the first one",
    empty=NOT_LOADED,
)
BANDWIDTH = _gauge(
    "memory_bandwidth_bytes_per_second",
    "bytes per second",
    "What this machine's memory gives to plain reads, measured when the stage was loaded; on a CPU, to one thread",
    empty=NOT_LOADED,
)

SERIES = (
    INFO,
    LAYERS,
    FUSED_LAYERS,
    FALLBACK_STEPS,
    PARAMETER_BYTES,
    STATE_BYTES,
    SNAPSHOT_BYTES,
    SEQUENCES,
    MEMORY_ACTIVE_BYTES,
    MEMORY_PEAK_BYTES,
    EPOCH,
    IN_FLIGHT,
    CREDITS,
    COMPUTE_SECONDS,
    QUEUE_SECONDS,
    ENCODE_SECONDS,
    WAIT_SECONDS,
    HOP_SECONDS,
    HOP_BYTES,
    ROWS,
    DUPLICATES,
    GAPS,
    STALE_MESSAGES,
    REFUSED,
    LAYER_SECONDS,
    SAMPLED_STEPS,
    READ_RATE,
    BANDWIDTH,
)
