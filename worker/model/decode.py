"""Decode steps of a stage: its layers through the fused kernels where they have a fused form, else as `blocks`.

Every fused layer, and the head, is compared with its plain form once, on this machine, before it is used.

Shapes: T rows of a step, D hidden size.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import mlx.core as mx

from kernels import backend
from worker.model.blocks import Block
from worker.model.fused import Fused, FusedAttention, FusedHead, FusedMamba
from worker.model.state import StageState, Step
from worker.model.stretch import Run

log = logging.getLogger("stageline.kernels")

CHECK_ROWS = 4
CHECK_ERROR = 0.05  # relative, of the middle row: bfloat16 rounding is 0.01, and a near tie may change an expert


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: its norm and block, and its fused form or the reason why it has none."""

    index: int
    norm_D: mx.array
    block: Block
    fused: Fused | str

    def plain(self, x_TD: mx.array, step: Step, eps: float) -> mx.array:
        """The layer by its block, residual included."""
        return x_TD + self.block(mx.fast.rms_norm(x_TD, self.norm_D, eps), step).astype(x_TD.dtype)


class DecodePath:
    """The layers of a stage for steps of a few single positions.

    `reasons` says for each layer without a fused form why it has none; `fused_layers` counts the others, and is 0
    where there is no GPU. `fallbacks` counts by reason how often a layer ran without its kernels where there are some.
    """

    def __init__(self, layers: Sequence[Layer], eps: float, new_state: Callable[[], StageState]) -> None:
        self._eps = eps
        usable = backend.current().fused
        layers = [_checked(layer, eps, *pair) for layer, pair in _with_states(layers, new_state)] if usable else layers
        self.reasons = {layer.index: layer.fused for layer in layers if isinstance(layer.fused, str)}
        forms = [layer.fused for layer in layers if not isinstance(layer.fused, str)]
        self.fused_layers = len(forms) if usable else 0
        self.fallbacks: Counter[str] = Counter()
        self._layers = list(layers)
        self._most_rows = min((form.most_rows for form in forms), default=0)
        self._parts = [
            Run([layer.fused for layer in run if not isinstance(layer.fused, str)]) if fused else list(run)
            for fused, run in groupby(layers, lambda layer: not isinstance(layer.fused, str))
        ]
        if self.fused_layers:
            self._prepare(new_state)
        if usable:
            for reason, count in Counter(self.reasons.values()).items():
                log.warning("%d layers run without fused kernels: %s", count, reason)

    def _prepare(self, new_state: Callable[[], StageState]) -> None:
        """One step of one sequence, so that nobody waits for its kernels to be compiled (on CUDA 1 to 2 s each)."""
        state = new_state()
        state.open(0)
        x_TD = _check_rows(self._layers[0].norm_D, seed=0)[:1]
        mx.eval(self(x_TD, state.begin([(0, 1)])), *state.pending())
        self.fallbacks.clear()

    def takes(self, step: Step, rows: int) -> bool:
        """Whether every row is a single position of its sequence, and they are few enough for the kernels."""
        if not (self.fused_layers and backend.current().fused and len(step.single) == rows):
            return False
        if rows > self._most_rows:
            reason = f"a step of {rows} sequences, the kernels take {self._most_rows}"
            if reason not in self.fallbacks:
                log.warning("decoding without fused kernels: %s", reason)
            self.fallbacks[reason] += len(self._layers)
            return False
        return True

    @property
    def most_rows(self) -> int:
        """The most rows of a step that the kernels take, 0 where there are none."""
        return self._most_rows if self.fused_layers else 0

    def __call__(
        self, x_TD: mx.array, step: Step, probe: Callable[[int | None, mx.array], None] | None = None
    ) -> mx.array:
        """[T, D] to [T, D]; advances the step's state. With a `probe` layer by layer: it is called after each."""
        if probe is not None:
            return self._probed(x_TD, step, probe)
        for part in self._parts:
            if isinstance(part, Run):
                x_TD = part(x_TD, step)
                continue
            for layer in part:
                assert isinstance(layer.fused, str)
                self.fallbacks[layer.fused] += 1
                x_TD = layer.plain(x_TD, step, self._eps)
        return x_TD

    def _probed(self, x_TD: mx.array, step: Step, probe: Callable[[int | None, mx.array], None]) -> mx.array:
        for place, layer in enumerate(self._layers):
            match layer.fused:
                case FusedMamba() | FusedAttention() as form:
                    x_TD = form(x_TD, step)
                case str() as reason:
                    self.fallbacks[reason] += 1
                    x_TD = layer.plain(x_TD, step, self._eps)
                case form:
                    x_TD = form(x_TD)
            probe(place, x_TD)
        return x_TD


def _with_states(
    layers: Sequence[Layer], new_state: Callable[[], StageState]
) -> Iterator[tuple[Layer, tuple[Step, Step]]]:
    """Each layer with two steps over fresh states; a layer touches only its own part of them."""
    steps: list[Step] = []
    for _ in range(2):
        state = new_state()
        for request in range(CHECK_ROWS):
            state.open(request)
        steps.append(state.begin([(request, 1) for request in range(CHECK_ROWS)]))
    return ((layer, (steps[0], steps[1])) for layer in layers)


def checked_head(head: FusedHead | None, plain: Callable[[mx.array], mx.array]) -> FusedHead | None:
    """The fused norm and head, unless it fails here or its logits differ from those of `plain`."""
    if head is None or not backend.current().fused:
        return None
    x_TD = _check_rows(head.gain.weight, seed=0)
    try:
        plain_TV = plain(x_TD).astype(mx.float32)
        middle = _middle_error(head(x_TD), plain_TV, plain_TV)
        mx.eval(head(x_TD[:1]))  # compiled before somebody waits for it
    except (RuntimeError, ValueError) as error:
        log.warning("the head runs without its fused kernel, which fails here: %s", error)
        return None
    if middle < CHECK_ERROR:
        return head
    log.warning("the head runs without its fused kernel, which differs from the reference by %.3g", middle)
    return None


def _check_rows(norm_D: mx.array, seed: int) -> mx.array:
    return mx.random.normal((CHECK_ROWS, norm_D.shape[0]), key=mx.random.key(seed)).astype(norm_D.dtype)


def _middle_error(got: mx.array, want: mx.array, scale: mx.array) -> float:
    """Of the rows' differences, relative to `scale`, the middle one."""
    difference_T = mx.linalg.norm(got.astype(mx.float32) - want, axis=-1)
    errors_T = mx.sort(difference_T / mx.linalg.norm(scale, axis=-1))
    return errors_T[CHECK_ROWS // 2].item()  # type: ignore[return-value]


def _checked(layer: Layer, eps: float, fused_step: Step, plain_step: Step) -> Layer:
    """The layer, without its fused form if that fails here or differs from the block."""
    if isinstance(layer.fused, str):
        return layer
    x_TD = _check_rows(layer.norm_D, seed=layer.index)
    try:
        if isinstance(layer.fused, FusedMamba | FusedAttention):
            fused_TD = layer.fused(x_TD, fused_step)
        else:
            fused_TD = layer.fused(x_TD)
        plain_TD = layer.plain(x_TD, plain_step, eps).astype(mx.float32)
        middle = _middle_error(fused_TD, plain_TD, plain_TD - x_TD)
    except (RuntimeError, ValueError) as error:
        return Layer(layer.index, layer.norm_D, layer.block, f"the kernel fails here: {error}")
    if not middle < CHECK_ERROR:
        return Layer(layer.index, layer.norm_D, layer.block, f"the kernel differs from the reference by {middle:.3g}")
    return layer
