"""Steps that are measured by kind of layer compute the same bits."""

from contextlib import nullcontext

import mlx.core as mx
import pytest

from kernels import backend
from kernels.dialect import host
from tests.worker.models import reference, stage_of
from worker.model.engine import Engine
from worker.protocol import Open, Sampling, Segment

PATTERN = "ME*-M"
PROMPT = [3, 1, 4, 1, 5]


def answer(stage, measured_steps):
    """Greedy tokens of two sequences in one batch, and the seconds of the steps that were measured."""
    engine = Engine(stage, hidden_size=64, is_last=True)
    tokens, seconds = [], []
    for request in (1, 2):
        engine.open(Open(epoch=0, request=request, sampling=Sampling(temperature=0), stop_tokens=(), limit=100))
        pending = engine.start_tokens(None, (Segment(request, 0, len(PROMPT), True),), [t + request for t in PROMPT])
        tokens.append(engine.finish(pending, 0).tokens[0].token)
    rows = [tuple(tokens)]
    for step in range(12):
        segments = tuple(Segment(request, len(PROMPT) + step, 1, True) for request in (1, 2))
        pending = engine.start_tokens(0, segments, rows[-1], measured=step in measured_steps)
        if pending.layer_seconds is not None:
            seconds.append(pending.layer_seconds)
        rows.append(tuple(sampled.token for sampled in engine.finish(pending, 0).tokens))
    return rows, seconds, bits(engine)


def bits(engine):
    """Everything that the sequences left behind."""
    packs = {id(pack): pack for pack in engine._state._packs.values()}.values()
    caches = [cache for caches in engine._state._caches.values() for cache in caches]
    arrays = [a for pack in packs for a in pack.arrays]
    arrays += [a[:, :, : cache.length] for cache in caches for a in (cache.keys_1VSA, cache.values_1VSA)]
    return [bytes(memoryview(mx.contiguous(a).view(mx.uint8))) for a in arrays]


@pytest.mark.parametrize(
    "kernels",
    [
        pytest.param("own", marks=[pytest.mark.cuda, pytest.mark.metal, pytest.mark.timeout(300)]),
        pytest.param("host", marks=pytest.mark.timeout(60)),  # measured steps compile kernels of their own
    ],
)
def test_measured_steps_change_no_bit(kernels):
    """With the kernels of this machine, none if it has no GPU, and with those for tests."""
    if kernels == "host" and host.compiler() is None:
        pytest.skip("no C++ compiler on this machine")
    with backend.using("host") if kernels == "host" else nullcontext():
        stage = stage_of(reference(PATTERN, mx.bfloat16, 8))
        assert (stage.fused_layers > 0) == backend.current().fused
        tokens, none, state = answer(stage, ())
        measured_tokens, seconds, measured_state = answer(stage, range(0, 12, 2))
    assert not none
    assert len(seconds) == 6
    assert all(set(times) == {"mamba", "moe", "attention", "mlp", "ends"} for times in seconds)
    assert all(value > 0 for times in seconds for value in times.values())
    assert measured_tokens == tokens
    assert measured_state == state
