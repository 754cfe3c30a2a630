"""Runs a stage's steps: the only place that evaluates arrays. No sockets.

Shapes: T rows of a step, D hidden size, S sampled rows.
"""

from collections.abc import Sequence

import mlx.core as mx
import msgspec

from worker.protocol import Activations, DType, Open, Sampled, Segment, Tokens, requests_of
from worker.sampling import Sampler
from worker.stage import Stage

# how a tensor's bytes are read: msgpack and memoryview know no bfloat16, so it travels as its 16 bits
_CODES: dict[DType, str] = {"bfloat16": "H", "float16": "e", "float32": "f"}
_NAMES: dict[mx.Dtype, DType] = {mx.bfloat16: "bfloat16", mx.float16: "float16", mx.float32: "float32"}


Output = tuple[Activations, memoryview] | Tokens | None


class Pending(msgspec.Struct, frozen=True):
    """A step whose arrays are being computed: hidden states [T, D], or tokens [S] on the last stage."""

    batch: int | None
    segments: tuple[Segment, ...]
    output: mx.array


class Engine:
    """One stage with the state and the samplers of its requests.

    `start` builds and launches a step, `finish` waits for its result; between the two the caller may start another.
    """

    def __init__(self, stage: Stage, *, hidden_size: int, is_last: bool) -> None:
        self.hidden_size = hidden_size
        self.dtype: DType = _NAMES[stage.dtype]
        self._stage = stage
        self._state = stage.new_state()
        self._sampler = Sampler()
        self._is_last = is_last
        self._endings: dict[int, Open] = {}
        self._sampled: dict[int, mx.array] = {}

    def memory(self) -> tuple[int, int, int]:
        """Bytes that MLX holds, bytes of them that are state, and number of sequences."""
        return mx.get_active_memory(), self._state.nbytes, self._state.sequences

    def clear(self) -> None:
        """Forget all requests: a new epoch begins."""
        self._state.clear()
        self._sampler.clear()
        self._endings.clear()
        self._sampled.clear()

    def open(self, message: Open) -> None:
        """A request begins."""
        self._state.open(message.request)
        if self._is_last:
            self._endings[message.request] = message
            self._sampler.open(message.request, message.sampling, message.prompt)

    def close(self, request: int) -> None:
        """A request is over: free its state."""
        self._state.close(request)
        if self._is_last:
            self._endings.pop(request, None)
            self._sampler.close(request)

    def start_tokens(self, batch: int | None, segments: tuple[Segment, ...], tokens: Sequence[int] | None) -> Pending:
        """Launch a step on stage 0 from token ids, or (None) from those that this batch sampled last."""
        if tokens is not None:
            ids_T = mx.array(list(tokens), dtype=mx.uint32)
        else:
            assert batch is not None
            ids_T = self._sampled[batch]
        return self._start(batch, segments, ids_T)

    def start_hidden(self, message: Activations, payload: memoryview) -> Pending:
        """Launch a step on a later stage from the bytes of hidden states [T, D] (already checked)."""
        flat = mx.array(payload.cast("B").cast(_CODES[message.dtype]))  # pyright: ignore (a buffer is an array)
        if message.dtype == "bfloat16":
            flat = flat.view(mx.bfloat16)
        return self._start(message.batch, message.segments, flat.reshape(message.shape))

    def _start(self, batch: int | None, segments: tuple[Segment, ...], inputs: mx.array) -> Pending:
        sample = [index for index, segment in enumerate(segments) if segment.sample]
        output = self._stage(inputs, [(s.request, s.count) for s in segments], self._state, sample)
        if self._is_last and sample:
            rows = [segments[index] for index in sample]
            output = self._sampler(output, requests_of(rows), [row.first + row.count for row in rows])
            if batch is not None:
                self._sampled[batch] = output
        mx.async_eval(output, *self._state.pending())
        return Pending(batch, segments, output)

    def finish(self, pending: Pending, epoch: int) -> Output:
        """Wait for a step. Hidden states as message and bytes, or the tokens it sampled (None: it sampled none)."""
        mx.eval(pending.output)
        if not self._is_last:
            rows, width = pending.output.shape
            header = Activations(
                epoch=epoch,
                batch=pending.batch,
                segments=pending.segments,
                dtype=self.dtype,
                shape=(rows, width),
            )
            raw = pending.output.view(mx.uint16) if self.dtype == "bfloat16" else pending.output
            return header, memoryview(raw).cast("B")  # pyright: ignore (an array is a buffer)
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
