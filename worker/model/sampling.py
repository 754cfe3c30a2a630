"""How the last stage chooses tokens, each row by its own settings.

A row's token depends on its logits, its settings, the seed and the position, and on nothing else: not on the rows
beside it, not on the batch's history, not on a restart. Rows are grouped by what their own settings need, noise is
drawn per row from a key made of (seed, position), and every operation works row by row.

The order is that of vLLM: penalties, temperature, min_p, top_k, top_p, then the largest logit plus Gumbel noise, which
is a draw from the softmax. Tokens stay on the device: the next step may begin before the host has read them.

Shapes: S rows, V vocabulary.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx

from worker.protocol import Sampling

GREEDY_BELOW = 1e-5  # temperatures that could overflow the logits; the draw is greedy there for all purposes
SEED_MASK = 2**64 - 1
SMALLEST_UNIFORM = 2.0**-33  # half a step of the uniform numbers, so that the noise stays finite


@dataclass(slots=True)
class _Row:
    """A request's settings, and for its penalties the tokens seen (prompt too) and the counts of generated ones."""

    sampling: Sampling
    prompt: tuple[int, ...]
    seen_V: mx.array | None = None
    counts_V: mx.array | None = None

    @property
    def penalized(self) -> bool:
        s = self.sampling
        return s.repetition_penalty != 1.0 or s.presence_penalty != 0.0 or s.frequency_penalty != 0.0


class Sampler:
    """Chooses one token a row. Not thread-safe: it belongs to the compute thread."""

    def __init__(self) -> None:
        self._rows: dict[int, _Row] = {}

    def open(self, request: int, sampling: Sampling, prompt: Sequence[int] = ()) -> None:
        """Begins a request; `prompt` is read only by the repetition penalty."""
        self._rows[request] = _Row(sampling, tuple(prompt))

    def close(self, request: int) -> None:
        """Forgets a request; one that is not open is ignored."""
        self._rows.pop(request, None)

    def __call__(self, logits_SV: mx.array, requests: Sequence[int], positions: Sequence[int]) -> mx.array:
        """Token ids [S] uint32, one for each row of `logits` (of any floating dtype).

        `positions` are the indices in their sequences of the tokens being chosen. Of equal logits the lowest id wins.
        """
        rows = [self._rows[request] for request in requests]
        logits_SV = logits_SV.astype(mx.float32)
        if any(row.penalized for row in rows):
            pairs = zip(logits_SV, rows, strict=True)
            logits_SV = mx.stack([_penalize(row, logits_V) if row.penalized else logits_V for logits_V, row in pairs])
        groups: dict[Callable[..., mx.array], list[int]] = {}
        for index, row in enumerate(rows):
            groups.setdefault(_chooser(row.sampling), []).append(index)
        if len(groups) == 1:
            (choose,) = groups
            tokens_S = choose(logits_SV, [row.sampling for row in rows], positions)
        else:
            parts = [
                choose(logits_SV[mx.array(own)], [rows[i].sampling for i in own], [positions[i] for i in own])
                for choose, own in groups.items()
            ]
            order = [index for own in groups.values() for index in own]
            tokens_S = mx.concatenate(parts)[mx.argsort(mx.array(order))]
        for index, row in enumerate(rows):
            if row.penalized:
                _count(row, tokens_S[index])
        return tokens_S


def _chooser(sampling: Sampling) -> Callable[[mx.array, Sequence[Sampling], Sequence[int]], mx.array]:
    if sampling.temperature < GREEDY_BELOW:
        return _greedy
    return _draw if sampling.top_k <= 0 and sampling.top_p >= 1.0 else _draw_sorted


def _greedy(logits_SV: mx.array, samplings: Sequence[Sampling], positions: Sequence[int]) -> mx.array:
    return mx.argmax(logits_SV, axis=-1)


def _draw(logits_SV: mx.array, samplings: Sequence[Sampling], positions: Sequence[int]) -> mx.array:
    scaled_SV = _scale(logits_SV, samplings)
    return mx.argmax(scaled_SV + _noise(samplings, positions, scaled_SV.shape[-1]), axis=-1)


def _draw_sorted(logits_SV: mx.array, samplings: Sequence[Sampling], positions: Sequence[int]) -> mx.array:
    """With top_k and top_p: work on logits in descending order, of equal ones the lower id first."""
    scaled_SV = _scale(logits_SV, samplings)
    V = scaled_SV.shape[-1]
    order_SV = mx.argsort(-scaled_SV, axis=-1)
    sorted_SV = mx.take_along_axis(scaled_SV, order_SV, axis=-1)
    top_k_S1 = mx.array([[s.top_k if s.top_k > 0 else V] for s in samplings])
    sorted_SV = mx.where(mx.arange(V) < top_k_S1, sorted_SV, -mx.inf)
    mass_SV = mx.softmax(sorted_SV, axis=-1)
    # a token stays while the mass before it is below top_p; the first one always stays
    before_SV = mx.cumsum(mass_SV, axis=-1, inclusive=False)
    top_p_S1 = mx.array([[s.top_p if s.top_p < 1.0 else mx.inf] for s in samplings])
    kept_SV = (before_SV < top_p_S1) | (mx.arange(V) == 0)
    noise_SV = mx.take_along_axis(_noise(samplings, positions, V), order_SV, axis=-1)
    best_S1 = mx.argmax(mx.where(kept_SV, sorted_SV + noise_SV, -mx.inf), axis=-1, keepdims=True)
    return mx.take_along_axis(order_SV, best_S1, axis=-1).squeeze(-1)


def _scale(logits_SV: mx.array, samplings: Sequence[Sampling]) -> mx.array:
    """Temperature and min_p: tokens less likely than min_p times the likeliest become -inf."""
    scaled_SV = logits_SV / mx.array([[s.temperature] for s in samplings])
    if all(s.min_p <= 0.0 for s in samplings):
        return scaled_SV
    floor_S1 = scaled_SV.max(axis=-1, keepdims=True) + mx.log(mx.array([[max(s.min_p, 0.0)] for s in samplings]))
    return mx.where(scaled_SV >= floor_S1, scaled_SV, -mx.inf)


def _noise(samplings: Sequence[Sampling], positions: Sequence[int], vocab_size: int) -> mx.array:
    """Gumbel noise [S, V], row by row from (seed, position).

    -log(-log(1 - u)) and not -log(-log(u)): the largest values, which decide, come from u near 0, where float32 is
    dense.
    """
    keys_S2 = mx.array([_key(s.seed, position) for s, position in zip(samplings, positions, strict=True)], mx.uint32)
    uniform_SV = mx.vmap(lambda key: mx.random.uniform(shape=(vocab_size,), key=key))(keys_S2)
    return -mx.log(-mx.log1p(-mx.maximum(uniform_SV, SMALLEST_UNIFORM)))


def _key(seed: int, position: int) -> list[int]:
    """Two words that no other (seed, position) shares, but by chance."""
    text = (seed & SEED_MASK).to_bytes(8, "little") + position.to_bytes(8, "little")
    digest = hashlib.blake2b(text, digest_size=8).digest()
    return [int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")]


def _penalize(row: _Row, logits_V: mx.array) -> mx.array:
    """Repetition penalty (arXiv 1909.05858) over prompt and answer; frequency and presence (OpenAI) over the answer."""
    s = row.sampling
    if row.seen_V is None or row.counts_V is None:
        row.counts_V = mx.zeros(logits_V.shape, mx.int32)
        row.seen_V = mx.zeros(logits_V.shape, mx.bool_)
        if row.prompt:
            row.seen_V[mx.array(row.prompt)] = True
    repeated_V = mx.where(logits_V > 0, logits_V / s.repetition_penalty, logits_V * s.repetition_penalty)
    logits_V = mx.where(row.seen_V, repeated_V, logits_V)
    return logits_V - s.frequency_penalty * row.counts_V - s.presence_penalty * (row.counts_V > 0)


def _count(row: _Row, token: mx.array) -> None:
    assert row.seen_V is not None
    assert row.counts_V is not None
    row.seen_V[token] = True
    row.counts_V[token] += 1
