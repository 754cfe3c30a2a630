"""The router and the experts against loops in float64 and hand-made cases."""

import mlx.core as mx
import numpy as np
import pytest

from kernels import moe
from worker.checkpoint.quantization import Quantization
from worker.model.matrix import Matrix

E, K, L, F = 8, 3, 32, 64
PLAIN = {"top_k": K, "num_groups": 1, "top_groups": 1, "normalize": False, "scaling": 1.0}


@pytest.fixture(autouse=True)
def _seed() -> None:
    mx.random.seed(11)


def choose(logits: list[float], correction: list[float] | None = None, **changes) -> tuple[list[int], list[float]]:
    """Route one row whose logits are given: its only input is 1."""
    gate_DE = mx.array([logits])
    correction_E = mx.array(correction or [0.0] * len(logits))
    indices, scores = moe.route(mx.ones((1, 1)), gate_DE, correction_E, **{**PLAIN, **changes})
    assert (indices.dtype, scores.dtype) == (mx.uint32, mx.float32)
    return indices[0].tolist(), scores[0].tolist()  # type: ignore[return-value]


def sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


def test_experts_come_in_descending_order_with_sigmoid_scores() -> None:
    indices, scores = choose([0.0, 3.0, -1.0, 2.0])
    assert indices == [1, 3, 0]
    assert scores == pytest.approx([sigmoid(3), sigmoid(2), sigmoid(0)])


def test_equal_scores_go_to_the_lower_index() -> None:
    assert choose([1.0, 2.0, 1.0, 2.0, 2.0, 2.0])[0] == [1, 3, 4]
    assert choose([0.0] * 512)[0] == [0, 1, 2]


def test_the_correction_chooses_but_does_not_weigh() -> None:
    indices, scores = choose([0.0, 3.0, -1.0, 2.0], [0.0, -1.0, 1.0, 0.0])
    assert indices == [2, 3, 0]
    assert scores == pytest.approx([sigmoid(-1), sigmoid(2), sigmoid(0)])


def test_normalized_scores_sum_to_the_scaling() -> None:
    _, scores = choose([0.0, 3.0, -1.0, 2.0], normalize=True, scaling=2.5)
    assert sum(scores) == pytest.approx(2.5)
    assert scores[0] / scores[1] == pytest.approx(sigmoid(3) / sigmoid(2))


def test_one_expert_a_row_is_not_normalized() -> None:
    assert choose([0.0, 3.0], top_k=1, normalize=True)[1] == pytest.approx([sigmoid(3)])


def test_only_the_best_groups_take_part() -> None:
    # group sums of the best two: (4 + 0), (3 + 2), (1 + 1): the best single expert is in a group that loses
    logits = [4.0, -4.0, -4.0, 3.0, 2.0, -4.0, 1.0, 1.0, -4.0]
    assert choose(logits, num_groups=3, top_groups=1, top_k=2)[0] == [3, 4]
    assert choose(logits, num_groups=3, top_groups=3, top_k=2)[0] == [0, 3]


def test_of_equal_groups_the_lower_one_stays() -> None:
    assert choose([1.0, 0.0, 1.0, 0.0], num_groups=2, top_groups=1, top_k=2)[0] == [0, 1]


def test_masked_groups_compete_with_score_zero() -> None:
    # the kept group's corrected scores are below 0, so a masked expert (score 0) is chosen, as in mlx-lm
    indices, _ = choose([0.0] * 4, [-1.0, -1.0, -2.0, -2.0], num_groups=2, top_groups=1, top_k=2)
    assert indices == [2, 3]


def test_router_computes_in_float32_from_bfloat16_rows() -> None:
    # the logits 1 and 1 + 2^-12 are equal in bfloat16, where the lower index would win
    x_TD = mx.array([[1.0, 2.0**-6]]).astype(mx.bfloat16)
    gate_DE = mx.array([[1.0, 1.0], [0.0, 2.0**-6]])
    indices, _ = moe.route(x_TD, gate_DE, mx.zeros(2), **{**PLAIN, "top_k": 1})
    assert indices.tolist() == [[1]]


def stack(dtype: mx.Dtype, bits: int | None, shape: tuple[int, int, int]) -> Matrix:
    weight = (mx.random.normal(shape) * 0.2).astype(dtype)
    return Matrix(weight) if bits is None else Matrix(*mx.quantize(weight, 32, bits), Quantization(bits, 32))


def dense(matrix: Matrix) -> np.ndarray:
    weight = matrix.weight
    if matrix.scales is not None and matrix.biases is not None and matrix.quantization is not None:
        scales, biases = matrix.scales.astype(mx.float32), matrix.biases.astype(mx.float32)
        weight = mx.dequantize(weight, scales, biases, matrix.quantization.group_size, matrix.quantization.bits)
    return np.array(weight.astype(mx.float32), np.float64)


@pytest.mark.parametrize("rows", [1, 2, 21, 22, 40], ids=lambda rows: f"{rows * K}-pairs")
@pytest.mark.parametrize("bits", [None, 4, 6, 8], ids=["dense", "4-bit", "6-bit", "8-bit"])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=["float32", "bfloat16"])
def test_experts_are_the_weighted_sum(dtype: mx.Dtype, bits: int | None, rows: int) -> None:
    up, down = stack(dtype, bits, (E, F, L)), stack(dtype, bits, (E, L, F))
    x_TL = mx.random.normal((rows, L)).astype(dtype)
    indices_TK = mx.argsort(mx.random.uniform(shape=(rows, E)), axis=-1)[:, :K]
    scores_TK = mx.random.uniform(shape=(rows, K))
    got = moe.experts(x_TL, indices_TK, scores_TK, up, down)
    assert (got.shape, got.dtype) == ((rows, L), dtype)

    x, up_EFL, down_ELF = np.array(x_TL.astype(mx.float32), np.float64), dense(up), dense(down)
    wanted = np.zeros((rows, L))
    for t, (experts, scores) in enumerate(zip(indices_TK.tolist(), scores_TK.tolist(), strict=True)):
        for e, score in zip(experts, scores, strict=True):
            wanted[t] += score * (down_ELF[e] @ np.maximum(up_EFL[e] @ x[t], 0) ** 2)
    # bfloat16 keeps 8 bits of each of the products that are summed
    tolerance = 1e-5 if dtype == mx.float32 else 2e-2
    error = abs(np.array(got.astype(mx.float32)) - wanted).max()
    assert error < tolerance * abs(wanted).max()


@pytest.mark.parametrize("bits", [None, 8], ids=["dense", "8-bit"])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=["float32", "bfloat16"])
def test_many_rows_equal_each_row_alone_bit_for_bit(dtype: mx.Dtype, bits: int | None) -> None:
    # 40 rows are sorted by expert, one row is not
    up, down = stack(dtype, bits, (E, F, L)), stack(dtype, bits, (E, L, F))
    x_TL = mx.random.normal((40, L)).astype(dtype)
    indices_TK = mx.argsort(mx.random.uniform(shape=(40, E)), axis=-1)[:, :K]
    scores_TK = mx.random.uniform(shape=(40, K))
    together = moe.experts(x_TL, indices_TK, scores_TK, up, down)
    for t in range(40):
        row = slice(t, t + 1)
        assert mx.array_equal(moe.experts(x_TL[row], indices_TK[row], scores_TK[row], up, down), together[row])
