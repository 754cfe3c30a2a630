"""State per sequence: packs that form and break up, memory that is accounted for, positions that only go forward."""

import gc

import mlx.core as mx
import pytest

from worker.errors import ProtocolError
from worker.footprint import GROWTH
from worker.model.state import KeyValues, Pack, StageState
from worker.spec import AttentionSpec, MambaSpec, MLPSpec

MAMBA = MambaSpec(
    num_heads=8,
    head_dim=16,
    state_size=32,
    num_groups=2,
    conv_kernel=4,
    conv_bias=True,
    proj_bias=False,
    time_step_limit=(0.0, float("inf")),
)
ATTENTION = AttentionSpec(num_heads=4, num_kv_heads=2, head_dim=32, bias=False)
MLP = MLPSpec(intermediate_size=96, bias=False)
# of one sequence, in float32
MAMBA_BYTES = 2 * (3 * (8 * 16 + 2 * 2 * 32) + 8 * 16 * 32) * 4
CACHE_BYTES = 2 * GROWTH * 2 * 32 * 4


def new_state(*requests: int) -> StageState:
    state = StageState((MAMBA, MAMBA, ATTENTION, MLP), mx.float32)
    for request in requests:
        state.open(request)
    return state


def mark(pack: Pack) -> None:
    """Adds to each member's state a number that tells it from the others, so that a mix-up shows."""
    for arrays in (pack.tails, pack.states):
        for layer, array in enumerate(arrays):
            own = mx.array([request * 10.0 + layer for request in pack.requests])
            arrays[layer] = array + own.reshape(-1, *([1] * (array.ndim - 1)))


def marks(state: StageState, request: int) -> list[float]:
    """What the marks of a request have summed up to, one value an array."""
    (pack,) = [pack for _, pack in state.begin([(request, 2)]).scans]
    assert pack.requests == (request,)
    for array in pack.arrays:
        assert array.shape[0] == 1
        assert mx.array_equal(array, mx.full(array.shape, array.flatten()[0]))
    return [array.flatten()[0].item() for array in pack.arrays]  # type: ignore[misc]


def test_members_keep_their_states_through_every_change() -> None:
    state = new_state(1, 2, 3, 4)
    times = dict.fromkeys((1, 2, 3, 4), 0)
    for members in [(1,), (1, 2), (2, 1), (3, 1), (1, 2, 3, 4), (4, 2), (1, 3), (2,), (3, 4, 1), (1, 2, 3, 4)]:
        pack = state.begin([(request, 1) for request in members]).batch
        assert pack is not None
        assert pack.requests == members
        mark(pack)
        for request in members:
            times[request] += 1
    for request, count in times.items():
        assert marks(state, request) == [count * request * 10.0, count * (request * 10.0 + 1)] * 2


def test_a_batch_that_stays_together_is_not_copied() -> None:
    state = new_state(1, 2)
    first = state.begin([(1, 1), (2, 1)]).batch
    assert state.begin([(1, 1), (2, 1)]).batch is first


def test_two_batches_in_turn_do_not_disturb_each_other() -> None:
    state = new_state(1, 2, 3)
    first, second = state.begin([(1, 1), (2, 1)]).batch, state.begin([(3, 1)]).batch
    assert state.begin([(1, 1), (2, 1)]).batch is first
    assert state.begin([(3, 1)]).batch is second


def test_rows_of_a_mixed_step() -> None:
    step = new_state(1, 2, 3, 4).begin([(1, 1), (2, 5), (3, 1), (4, 2)])
    assert [(span.request, span.start, span.end) for span in step.spans] == [(1, 0, 1), (2, 1, 6), (3, 6, 7), (4, 7, 9)]
    assert step.single == (0, 6)
    assert step.batch is not None
    assert step.batch.requests == (1, 3)
    assert [(span.request, pack.requests) for span, pack in step.scans] == [(2, (2,)), (4, (4,))]


def test_nbytes_counts_packs_once_and_falls_to_zero() -> None:
    state = new_state(1, 2, 3)
    assert state.nbytes == 0
    step = state.begin([(1, 1), (2, 1), (3, 1)])
    assert state.nbytes == 3 * MAMBA_BYTES
    for span in step.spans:
        kv = mx.zeros((1, 2, 1, 32))
        span.caches[0].append(kv, kv)
    assert state.nbytes == 3 * (MAMBA_BYTES + CACHE_BYTES)
    state.close(2)
    assert state.nbytes == 2 * (MAMBA_BYTES + CACHE_BYTES)
    state.begin([(1, 1)])
    assert state.nbytes == 2 * (MAMBA_BYTES + CACHE_BYTES)
    state.close(3)
    state.close(1)
    assert (state.nbytes, state.sequences) == (0, 0)


def test_memory_is_given_back() -> None:
    state = new_state(*range(8))
    gc.collect()
    mx.clear_cache()  # a buffer that is used again may be larger than asked for
    before = mx.get_active_memory()
    step = state.begin([(request, 1) for request in range(8)])
    assert step.batch is not None
    mark(step.batch)
    kv = mx.zeros((1, 2, 1, 32))
    for span in step.spans:
        span.caches[0].append(kv, kv)
    mx.eval(kv, state.pending())
    held = mx.get_active_memory() - before - kv.nbytes
    # MLX rounds small allocations; a view that kept more than its rows alive would show
    assert held == pytest.approx(state.nbytes, rel=0.02)
    del step, span
    for request in range(1, 8):
        state.close(request)
    mx.eval(state.pending())
    left = mx.get_active_memory() - before - kv.nbytes
    assert left == pytest.approx(state.nbytes, rel=0.02)
    state.close(0)
    assert mx.get_active_memory() - before - kv.nbytes < 0.01 * left


def test_closing_all_frees_the_memory_before_any_other_step() -> None:
    mx.clear_cache()
    before = mx.get_active_memory()
    requests = range(16)
    state = new_state(*requests)
    for request in requests:
        state.begin([(request, 5)])
    state.begin([(request, 1) for request in requests])
    mx.eval(state.pending())
    state.begin([(request, 1) for request in requests])
    assert mx.get_active_memory() - before > 0.9 * state.nbytes
    for request in requests:
        state.close(request)
    assert (state.nbytes, state.sequences) == (0, 0)
    assert mx.get_active_memory() - before < 10_000


def test_pending_names_what_changed_once() -> None:
    state = new_state(1, 2)
    state.begin([(1, 1), (2, 1)])
    assert len(state.pending()) == 4 + 2 * 2
    assert state.pending() == []
    state.begin([(1, 1)])  # takes 1 out of the pack: 2's states move as well
    assert len(state.pending()) == 4 + 4 + 2


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([(9, 1)], "request 9 is not open on this stage"),
        ([(1, 1), (1, 1)], "twice in one step"),
        ([(1, 0)], "request 1 has 0 rows"),
    ],
    ids=["unknown", "twice", "empty"],
)
def test_a_step_that_cannot_be_changes_nothing(segments: list[tuple[int, int]], message: str) -> None:
    state = new_state(1, 2)
    with pytest.raises(ProtocolError, match=message):
        state.begin([(2, 1), *segments])
    assert (state.nbytes, state.pending()) == (0, [])


def test_opening_twice_is_refused_and_closing_twice_is_not() -> None:
    state = new_state(1)
    with pytest.raises(ProtocolError, match="request 1 is already open"):
        state.open(1)
    state.close(1)
    state.close(1)
    assert state.sequences == 0


@pytest.mark.parametrize("counts", [(1, GROWTH), (GROWTH, 1), (GROWTH - 1, 2, GROWTH), (3 * GROWTH + 5,)], ids=str)
def test_keys_and_values_grow_by_steps(counts: tuple[int, ...]) -> None:
    cache, seen = KeyValues(ATTENTION, mx.float32), []
    for number, count in enumerate(counts):
        seen.append(mx.random.normal((1, 2, count, 32), key=mx.random.key(number)))
        keys, values = cache.append(seen[-1], -seen[-1])
        assert mx.array_equal(keys, mx.concatenate(seen, axis=2))
        assert mx.array_equal(values, -mx.concatenate(seen, axis=2))
    capacity = cache.keys_1VSA.shape[2]
    assert capacity % GROWTH == 0
    assert 0 <= capacity - sum(counts) < GROWTH


def test_a_run_of_layers_without_state() -> None:
    state = StageState((MLP,), mx.float32)
    state.open(1)
    step = state.begin([(1, 4)])
    assert (step.batch, step.scans, state.nbytes, state.pending()) == (None, (), 0, [])
