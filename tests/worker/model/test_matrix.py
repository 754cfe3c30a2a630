import mlx.core as mx
import pytest

from worker.checkpoint.quantization import FLOAT_MODES, Quantization
from worker.model.matrix import Matrix

FORMATS = [None, *(Quantization(bits, 32) for bits in (2, 3, 4, 5, 6, 8)), Quantization(4, 64), Quantization(8, 128)]
FORMATS += [Quantization(*how, mode=mode) for mode, how in FLOAT_MODES.items()]
DTYPES = pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16], ids=["float32", "bfloat16", "float16"])
IN_EVERY_FORMAT = pytest.mark.parametrize("how", FORMATS, ids=str)


@pytest.fixture(autouse=True)
def _seed() -> None:
    mx.random.seed(3)


def matrix(how: Quantization | None, dtype: mx.Dtype, shape: tuple[int, ...], bias: bool = False) -> Matrix:
    weight = mx.random.normal(shape).astype(dtype)
    added = mx.random.normal(shape[:1]).astype(dtype) if bias else None
    if how is None:
        return Matrix(weight, bias=added)
    weight, scales, *biases = mx.quantize(weight, how.group_size, how.bits, how.mode)
    return Matrix(weight, scales, biases[0] if biases else None, how, added)


def plain(matrix: Matrix) -> mx.array:
    """The weights in float32."""
    how = matrix.quantization
    if how is None or matrix.scales is None:
        return matrix.weight.astype(mx.float32)
    if matrix.biases is None:
        return mx.dequantize(matrix.weight, matrix.scales, None, how.group_size, how.bits, how.mode, dtype=mx.float32)
    # MLX dequantises in the dtype of the scales
    scales, biases = matrix.scales.astype(mx.float32), matrix.biases.astype(mx.float32)
    return mx.dequantize(matrix.weight, scales, biases, how.group_size, how.bits)


def assert_close(got: mx.array, wanted: mx.array, dtype: mx.Dtype) -> None:
    """Equal up to one rounding to the dtype (and float32 sums in another order)."""
    assert got.dtype == dtype
    assert got.shape == wanted.shape
    error = mx.abs(got.astype(mx.float32) - wanted).max() / mx.abs(wanted).max()
    assert error.item() < {mx.float32: 3e-6, mx.bfloat16: 4e-3, mx.float16: 6e-4}[dtype]


@DTYPES
@IN_EVERY_FORMAT
def test_product(how: Quantization | None, dtype: mx.Dtype) -> None:
    m, x = matrix(how, dtype, (24, 512)), mx.random.normal((3, 512)).astype(dtype)
    assert_close(m(x), x.astype(mx.float32) @ plain(m).T, dtype)


@DTYPES
@pytest.mark.parametrize("how", [None, Quantization(8, 32)], ids=str)
def test_product_with_bias(how: Quantization | None, dtype: mx.Dtype) -> None:
    m, x = matrix(how, dtype, (24, 64), bias=True), mx.random.normal((3, 64)).astype(dtype)
    assert m.bias is not None
    assert_close(m(x), x.astype(mx.float32) @ plain(m).T + m.bias.astype(mx.float32), dtype)


@DTYPES
@IN_EVERY_FORMAT
@pytest.mark.parametrize("rows", [2, 9])
def test_gathered_product(how: Quantization | None, dtype: mx.Dtype, rows: int) -> None:
    # 4 experts: 2 rows convert the experts in use, 9 rows the whole stack, see Matrix.gather
    m, x = matrix(how, dtype, (4, 24, 128)), mx.random.normal((rows, 1, 128)).astype(dtype)
    indices = mx.sort(mx.random.randint(0, 4, (rows,)).astype(mx.uint32))
    wanted = mx.stack([row.astype(mx.float32) @ plain(m)[index].T for row, index in zip(x, indices, strict=True)])
    assert_close(m.gather(x, indices), wanted, dtype)
    assert_close(m.gather(x, indices, ascending=True), wanted, dtype)


@IN_EVERY_FORMAT
def test_rows_are_those_of_the_matrix(how: Quantization | None) -> None:
    m = matrix(how, mx.float32, (24, 128))
    assert mx.array_equal(m.rows(mx.array([5, 0, 5, 23])).astype(mx.float32), plain(m)[mx.array([5, 0, 5, 23])])


def test_nbytes_counts_every_array() -> None:
    packed = matrix(Quantization(8, 32), mx.bfloat16, (24, 64), bias=True)
    assert packed.nbytes == 24 * 64 + 2 * (24 * 2 * 2) + 24 * 2
    assert matrix(None, mx.bfloat16, (24, 64)).nbytes == 24 * 64 * 2
