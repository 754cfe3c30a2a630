"""A sequence that begins from a snapshot goes on with the bits of the one that the snapshot was taken of."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import mlx.core as mx
import pytest

from tests.worker.models import reference, spec_of, stage_of
from worker.errors import ProtocolError
from worker.footprint import footprint
from worker.model.snapshot_files import SnapshotFiles
from worker.model.snapshots import Snapshot, Snapshots
from worker.model.stage import Stage
from worker.model.state import GROWTH, StageState
from worker.protocol import Held

PROMPT = [(i * i * 7 + 3 * i) % 96 for i in range(20)]
DECODED = [3, 14, 15, 92, 65, 35, 89, 79]
PATTERNS = ["M", "*", "E", "-", "ME*-ME"]


class Line:
    """Stages in a row, each with its state."""

    def __init__(self, *stages: Stage) -> None:
        self.stages = stages
        self.states = [stage.new_state() for stage in stages]

    def step(self, *rows: tuple[int, Sequence[int]]) -> mx.array:
        """Logits after the last row of each (request, token ids)."""
        segments = [(request, len(ids)) for request, ids in rows]
        x = mx.array([token for _, ids in rows for token in ids], dtype=mx.uint32)
        for stage, state in zip(self.stages, self.states, strict=True):
            x = stage(x, segments, state, range(len(rows)))
            mx.eval(x, *state.pending())
        return x

    def open(self, request: int, start: Sequence[Snapshot] | None = None) -> None:
        for index, state in enumerate(self.states):
            state.open(request, start[index] if start else None)

    def snapshot(self, request: int, position: int) -> list[Snapshot]:
        snapshots = [state.snapshot(request, position) for state in self.states]
        for snapshot in snapshots:
            mx.eval(snapshot.arrays)
        return snapshots


def assert_same_state(one: StageState, other: StageState, request: int, its_twin: int, position: int) -> None:
    ours, theirs = one.snapshot(request, position), other.snapshot(its_twin, position)
    assert ours.nbytes == theirs.nbytes
    for mine, their in zip(ours.arrays, theirs.arrays, strict=True):
        assert mine.dtype == their.dtype
        assert mx.array_equal(mine, their)


@pytest.mark.parametrize("bits", [None, 8], ids=["dense", "8-bit"])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_restored_equals_live_bit_for_bit(pattern: str, dtype: mx.Dtype, bits: int | None) -> None:
    line = Line(stage_of(reference(pattern, dtype, bits)))
    line.open(1)
    line.step((1, PROMPT))
    taken = line.snapshot(1, len(PROMPT))
    line.open(2, taken)
    for token in DECODED:  # alone, as the live one, so that even products that depend on the number of rows agree
        assert mx.array_equal(line.step((1, [token])), line.step((2, [token])))
    position = len(PROMPT) + len(DECODED)
    assert mx.array_equal(line.step((1, PROMPT[:9])), line.step((2, PROMPT[:9])))
    assert_same_state(line.states[0], line.states[0], 1, 2, position + 9)
    # what was taken is still as it was, and can be used again
    line.open(3, taken)
    assert_same_state(line.states[0], line.states[0], 3, 3, len(PROMPT))
    fresh = Line(*line.stages)
    fresh.open(1)
    fresh.step((1, PROMPT))
    assert mx.array_equal(line.step((3, DECODED)), fresh.step((1, DECODED)))


@pytest.mark.parametrize("cut", [(), (1,), (2, 4), (1, 2, 3, 4, 5)], ids=str)
def test_every_stage_has_its_part_of_a_member_of_a_batch(cut: tuple[int, ...]) -> None:
    model = reference("ME*-ME")
    line = Line(*(stage_of(model, first, end) for first, end in pairwise((0, *cut, 6))))
    for request in (1, 2, 3):
        line.open(request)
        line.step((request, PROMPT[: 5 * request]))
    for token in DECODED[:4]:
        line.step((1, [token]), (2, [token + 1]), (3, [token + 2]))
    taken = line.snapshot(2, 14)
    line.step((1, [7]), (2, [8]), (3, [9]))
    for request in (1, 2):
        for state in line.states:
            state.close(request)
    line.open(4, taken)
    alone = Line(*line.stages)
    alone.open(4)
    alone.step((4, PROMPT[:10]))
    for token in DECODED[:4]:
        alone.step((4, [token + 1]))
    for token in DECODED:
        together = line.step((3, [token]), (4, [token]))
        if mx.default_device().type == mx.cpu:  # a GPU may add in another order for two rows
            assert mx.array_equal(together[1], alone.step((4, [token]))[0])


@pytest.mark.parametrize("position", [1, GROWTH - 1, GROWTH, GROWTH + 1])
def test_keys_and_values_are_cut_at_the_position_and_grow_as_they_would_have(position: int) -> None:
    line = Line(stage_of(reference("M*")))
    ids = [i % 96 for i in range(position)]
    line.open(1)
    line.step((1, ids))
    (taken,) = line.snapshot(1, position)
    assert [array.shape[2] for array in (*taken.keys, *taken.values)] == [position, position]
    line.open(2, [taken])
    for _ in range(3):
        assert mx.array_equal(line.step((1, [5])), line.step((2, [5])))
    ((live,), (restored,)) = (line.states[0]._caches[request] for request in (1, 2))
    assert live.keys_1VSA.shape == restored.keys_1VSA.shape
    assert live.length == restored.length == position + 3


def test_a_snapshot_has_no_more_memory_than_it_says_and_gives_it_back() -> None:
    line = Line(stage_of(reference("MEM*")))
    mx.synchronize()
    usual = mx.set_cache_limit(0)  # a buffer that is used again may be larger than asked for
    before = mx.get_active_memory()
    snapshots = Snapshots()
    for request in range(8):
        line.open(request)
        line.step((request, PROMPT * 5))
    for token in DECODED:
        line.step(*((request, [token]) for request in range(8)))
    for request in range(8):
        snapshots.keep(str(request), line.states[0].snapshot(request, 100 + len(DECODED)))
    for request in range(8):
        line.states[0].close(request)
    mx.synchronize()
    # MLX rounds small allocations; a view that kept a whole batch or room to grow alive would show
    assert mx.get_active_memory() - before == pytest.approx(snapshots.nbytes, rel=0.02)
    for request in range(8):
        snapshots.drop(str(request))
    assert snapshots.nbytes == 0
    assert mx.get_active_memory() - before < 10_000
    mx.set_cache_limit(usual)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=["float32", "bfloat16"])
def test_what_went_through_a_file_goes_on_with_the_same_bits(dtype: mx.Dtype, tmp_path: Path) -> None:
    line = Line(stage_of(reference("ME*-M", dtype)))
    line.open(1)
    line.step((1, PROMPT))
    line.step((1, [5]))
    name = f"21-{'0' * 32}"
    snapshots = Snapshots(files := SnapshotFiles(tmp_path))
    snapshots.keep(name, line.states[0].snapshot(1, 21))
    snapshots.write(name)
    files.close()
    line.open(2, [Snapshots(SnapshotFiles(tmp_path)).take(name, 21)])
    for token in DECODED:
        assert mx.array_equal(line.step((1, [token])), line.step((2, [token])))
    assert_same_state(line.states[0], line.states[0], 1, 2, 21 + len(DECODED))


@pytest.mark.parametrize("position", [1, 64, 300])
def test_its_bytes_are_those_that_the_coordinator_reckons_with(position: int) -> None:
    model = reference("ME*-M*", mx.bfloat16)
    line = Line(stage_of(model))
    line.open(1)
    line.step((1, [5] * position))
    (taken,) = line.snapshot(1, position)
    assert taken.nbytes == footprint(spec_of(model).layers, mx.bfloat16.size).snapshot_bytes(position)


def test_what_is_not_there_is_refused() -> None:
    line = Line(stage_of(reference("M*")))
    with pytest.raises(ProtocolError, match="request 1 is not open"):
        line.states[0].snapshot(1, 0)
    line.open(1)
    line.step((1, PROMPT))
    snapshots = Snapshots()
    snapshots.keep("20-ab", line.states[0].snapshot(1, 20))
    assert snapshots.held == (Held("20-ab", snapshots.nbytes),)
    assert snapshots.take("20-ab", 20).position == 20
    with pytest.raises(ProtocolError, match="20-ab is at position 20, the request begins at 19"):
        snapshots.take("20-ab", 19)
    snapshots.drop("20-ab")
    snapshots.drop("20-ab")
    with pytest.raises(ProtocolError, match="snapshot 20-ab is not on this stage"):
        snapshots.take("20-ab", 20)
