"""Checkpoints whose weights are not all of one type: what leaves a layer has the type of the norms all the same."""

from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten, tree_unflatten

from tests.worker.models import reference, stage_of

WIDER = ["mixer.norm", "conv1d.bias", "in_proj", "out_proj", "q_proj", "o_proj", "fc1_latent_proj", "up_proj"]


@pytest.mark.parametrize("name", WIDER)
def test_a_wider_weight_does_not_widen_hidden_states(name: str) -> None:
    model = reference("ME*-M", mx.bfloat16)
    parameters: Any = tree_flatten(model.parameters())
    widened = [(key, array.astype(mx.float32) if name in key else array) for key, array in parameters]
    assert any(array.dtype == mx.float32 and name in key for key, array in widened)
    model.update(tree_unflatten(widened))
    first, last = stage_of(model, 0, 4), stage_of(model, 4, 5)
    states = first.new_state(), last.new_state()
    for state in states:
        state.open(1)
    x_TD = first(mx.array([3, 4, 5]), [(1, 3)], states[0])
    assert x_TD.dtype == first.dtype == mx.bfloat16
    whole = stage_of(model)
    state = whole.new_state()
    state.open(1)
    assert mx.array_equal(last(x_TD, [(1, 3)], states[1], [0]), whole(mx.array([3, 4, 5]), [(1, 3)], state, [0]))
