"""Fused layers in a row, handed to MLX as few compiled functions: from one attention to the next.

Attention itself attends to keys and values that grow, each sequence's at its own length, so it cannot be compiled; its
products can, and belong to the stretches before and after it.

Shapes: T rows of a step, D hidden size, I attention's inner size.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVarTuple, Unpack

import mlx.core as mx

from kernels import backend
from worker.model.fused import Fused, FusedAttention, FusedMamba, FusedMoE
from worker.model.state import Step

Arrays = TypeVarTuple("Arrays")


class Run:
    """Fused layers in a row."""

    def __init__(self, forms: Sequence[Fused]) -> None:
        attentions = [place for place, form in enumerate(forms) if isinstance(form, FusedAttention)]
        self._stretches = [
            Stretch(
                _attention(forms, first),
                [form for form in forms[first + 1 : last] if not isinstance(form, FusedAttention)],
                _attention(forms, last),
            )
            for first, last in pairwise([-1, *attentions, len(forms)])
        ]

    def __call__(self, x_TD: mx.array, step: Step) -> mx.array:
        """[T, D] to [T, D]; advances the step's state."""
        attended_TI = None
        for stretch in self._stretches:
            x_TD, projected = stretch(x_TD, attended_TI, step)
            attended_TI = stretch.after.block.attend(projected, step) if stretch.after is not None else None
        return x_TD


class Stretch:
    """The end of the attention `before`, Mamba and expert layers, the beginning of the attention `after`."""

    def __init__(
        self, before: FusedAttention | None, forms: Sequence[FusedMamba | FusedMoE], after: FusedAttention | None
    ) -> None:
        self.after = after
        self._before, self._forms = before, forms
        self._slots = [form.slot for form in forms if isinstance(form, FusedMamba)]
        self._forward = compiled(self._layers)

    def __call__(
        self, x_TD: mx.array, attended_TI: mx.array | None, step: Step
    ) -> tuple[mx.array, tuple[mx.array, ...]]:
        """x after the layers, and what `after` attends with. The states of Mamba layers go in and come out as
        arrays."""
        tails, states = (step.batch.tails, step.batch.states) if step.batch is not None else ([], [])
        held = [*(tails[slot] for slot in self._slots), *(states[slot] for slot in self._slots)]
        x_TD, *rest = self._forward(x_TD, *([] if attended_TI is None else [attended_TI]), *held)
        projected, new = tuple(rest[: len(rest) - len(held)]), rest[len(rest) - len(held) :]
        for place, slot in enumerate(self._slots):
            tails[slot], states[slot] = new[place], new[place + len(self._slots)]
        return x_TD, projected

    def _layers(self, x_TD: mx.array, *given: mx.array) -> list[mx.array]:
        arrays = iter(given)
        if self._before is not None:
            x_TD = self._before.leave(next(arrays), x_TD)
        held = list(arrays)
        tails, states = iter(held[: len(self._slots)]), iter(held[len(self._slots) :])
        new_tails: list[mx.array] = []
        new_states: list[mx.array] = []
        for form in self._forms:
            if isinstance(form, FusedMamba):
                x_TD, tail, state = form.advance(x_TD, next(tails), next(states))
                new_tails.append(tail)
                new_states.append(state)
            else:
                x_TD = form(x_TD)
        projected = self.after.enter(x_TD) if self.after is not None else ()
        return [x_TD, *projected, *new_tails, *new_states]


def compiled(function: Callable[[Unpack[Arrays]], list[mx.array]]) -> Callable[[Unpack[Arrays]], list[mx.array]]:
    """The function as MLX compiles it on a GPU. The host dialect runs while a graph is built and cannot be traced."""
    return mx.compile(function) if backend.current().dialect in ("cuda", "metal") else function


def _attention(forms: Sequence[Fused], place: int) -> FusedAttention | None:
    form = forms[place] if 0 <= place < len(forms) else None
    return form if isinstance(form, FusedAttention) else None
