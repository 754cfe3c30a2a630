"""What is promised to a sequence is what its state takes, to the byte."""

from itertools import pairwise

import mlx.core as mx
import pytest

from kernels.mamba.reference import CHUNK
from tests.worker.models import reference, spec_of, stage_of
from worker.footprint import GROWTH, footprint
from worker.protocol import BLOCK

LENGTHS = [1, 100, GROWTH, GROWTH + 1, 3 * GROWTH - 1]


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("pattern", ["MEM*E-ME", "M-M", "*E*", "E-"])
def test_it_equals_what_the_stages_hold(pattern, dtype):
    model = reference(pattern, dtype)
    spec = spec_of(model)
    cuts = (0, 1, len(pattern) // 2 + 1, len(pattern)) if len(pattern) > 3 else (0, 1, len(pattern))
    for first, end in pairwise(cuts):
        stage = stage_of(model, first, end)
        state, expected = stage.new_state(), footprint(spec.layers[first:end], dtype.size)
        for request, length in enumerate(LENGTHS):
            state.open(request)
            for start in range(0, length, 90):
                rows = min(90, length - start)
                inputs = mx.zeros(rows, mx.uint32) if first == 0 else mx.zeros((rows, spec.hidden_size), dtype)
                mx.eval(stage(inputs, [(request, rows)], state), *state.pending())
            assert state.nbytes == sum(map(expected.bytes, LENGTHS[: request + 1])), (first, end, length)


def test_prompts_are_cut_between_the_blocks_of_the_scan():
    assert BLOCK % CHUNK == 0
