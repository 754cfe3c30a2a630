"""Runs a stage's steps and waits for them. No sockets.

Shapes: T rows of a step, D hidden size, S sampled rows.
"""

from collections.abc import Mapping, Sequence

import mlx.core as mx
import msgspec

from worker.model.sampling import Sampler
from worker.model.snapshots import Snapshots
from worker.model.stage import Stage
from worker.protocol import Activations, DType, Held, Open, Sampled, Segment, Tokens, requests_of
from worker.telemetry.memory import Memory
from worker.telemetry.probe import Probe

_DTYPES: dict[DType, mx.Dtype] = {"bfloat16": mx.bfloat16, "float16": mx.float16, "float32": mx.float32}
_NAMES: dict[mx.Dtype, DType] = {dtype: name for name, dtype in _DTYPES.items()}

Output = tuple[Activations, memoryview] | Tokens | None


class Pending(msgspec.Struct, frozen=True):
    """A step being computed: the bits of hidden states [T, D], or tokens [S] on the last stage.

    `layer_seconds` are its seconds by kind of layer, if it was measured.
    """

    batch: int | None
    segments: tuple[Segment, ...]
    output: mx.array
    layer_seconds: Mapping[str, float] | None = None


class Engine:
    """One stage with the state and the samplers of an epoch's requests, and the `snapshots`, which outlive it.

    `start` builds and launches a step, `finish` waits for its result; between the two the caller may start another. A
    `measured` step is timed by kind of layer and computed in `start`.
    """

    def __init__(self, stage: Stage, *, hidden_size: int, is_last: bool, snapshots: Snapshots | None = None) -> None:
        self.hidden_size = hidden_size
        self._snapshots = snapshots or Snapshots()
        self._stage = stage
        self._state = stage.new_state()
        self._sampler = Sampler()
        self._dtype: DType = _NAMES[stage.dtype]
        self._is_last = is_last
        self._endings: dict[int, Open] = {}
        self._sampled: dict[int, mx.array] = {}

    @property
    def computes_in_background(self) -> bool:
        """Whether `start` returns before the step is computed. On a CPU MLX computes nearly all of it there."""
        return mx.default_device() != mx.cpu

    def memory(self) -> Memory:
        """What is in memory now."""
        state, snapshots = self._state, self._snapshots
        return Memory(mx.get_active_memory(), mx.get_peak_memory(), state.nbytes, state.sequences, snapshots.nbytes)

    def open(self, message: Open) -> None:
        """A request begins. Raises ProtocolError if it is to begin from a snapshot that is not here."""
        start = None if message.restore is None else self._snapshots.take(message.restore, message.first)
        self._state.open(message.request, start)
        if self._is_last:
            self._endings[message.request] = message
            self._sampler.open(message.request, message.sampling, message.prompt)

    def close(self, request: int) -> None:
        """A request is over: free its state."""
        self._state.close(request)
        if self._is_last:
            self._endings.pop(request, None)
            self._sampler.close(request)

    def save(self, request: int, position: int, name: str) -> int:
        """Take a snapshot of a request, which is at `position`; returns its bytes."""
        snapshot = self._state.snapshot(request, position)
        self._snapshots.keep(name, snapshot)
        return snapshot.nbytes

    def write(self, name: str) -> None:
        """Have a snapshot written, where snapshots have files. Waits until it is computed."""
        self._snapshots.write(name)

    def drop(self, name: str) -> None:
        """Free a snapshot."""
        self._snapshots.drop(name)

    @property
    def held(self) -> tuple[Held, ...]:
        """The snapshots that are here, the oldest first."""
        return self._snapshots.held

    def start_tokens(
        self,
        batch: int | None,
        segments: tuple[Segment, ...],
        tokens: Sequence[int] | None,
        measured: bool = False,
    ) -> Pending:
        """Launch a step on stage 0 from token ids, or (None) from those that this batch sampled last."""
        if tokens is not None:
            ids_T = mx.array(list(tokens), dtype=mx.uint32)
        else:
            assert batch is not None
            ids_T = self._sampled[batch]
        return self._start(batch, segments, ids_T, measured)

    def start_hidden(self, message: Activations, payload: memoryview, measured: bool = False) -> Pending:
        """Launch a step on a later stage from the bits of hidden states [T, D] (already checked)."""
        bits = payload.cast("B").cast("I" if message.dtype == "float32" else "H")
        x_TD = mx.array(bits).view(_DTYPES[message.dtype]).reshape(message.shape)  # pyright: ignore (a buffer is an array)
        return self._start(message.batch, message.segments, x_TD, measured)

    def _start(self, batch: int | None, segments: tuple[Segment, ...], inputs: mx.array, measured: bool) -> Pending:
        probe = Probe(self._stage.pattern) if measured else None
        sample = [index for index, segment in enumerate(segments) if segment.sample]
        output = self._stage(inputs, [(s.request, s.count) for s in segments], self._state, sample, probe)
        if not self._is_last:
            # the view now: made later it would wait behind the step that is launched meanwhile
            output = output.view(mx.uint32 if self._dtype == "float32" else mx.uint16)
        elif sample:
            rows = [segments[index] for index in sample]
            output = self._sampler(output, requests_of(rows), [row.first + row.count for row in rows])
            if batch is not None:
                self._sampled[batch] = output
        if probe is not None:
            probe(None, output, *self._state.pending())
            return Pending(batch, segments, output, probe.seconds)
        mx.async_eval(output, *self._state.pending())
        return Pending(batch, segments, output)

    def finish(self, pending: Pending, epoch: int) -> Output:
        """Wait for a step. Hidden states as message and bytes, or the tokens it sampled (None: it sampled none)."""
        mx.eval(pending.output)
        if not self._is_last:
            rows, width = pending.output.shape
            header = Activations(
                epoch=epoch, batch=pending.batch, segments=pending.segments, dtype=self._dtype, shape=(rows, width)
            )
            return header, memoryview(pending.output).cast("B")  # pyright: ignore (an array is a buffer)
        sampling = [segment for segment in pending.segments if segment.sample]
        if not sampling:
            return None
        ids: list[int] = pending.output.tolist()  # type: ignore[assignment]
        sampled = tuple(self._ending(segment, token) for segment, token in zip(sampling, ids, strict=True))
        return Tokens(epoch=epoch, batch=pending.batch, tokens=sampled)

    def _ending(self, segment: Segment, token: int) -> Sampled:
        position = segment.first + segment.count
        request = self._endings[segment.request]
        finish = "stop" if token in request.stop_tokens else "length" if position + 1 >= request.limit else None
        return Sampled(segment.request, position, token, finish)
