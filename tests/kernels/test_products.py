"""Products of packed matrices against fp32, at sizes that no fast path likes."""

import mlx.core as mx
import pytest

from kernels import backend
from kernels.dialect.jobs import launch
from kernels.matvec.launch import Output, Squares, combine, most_vectors, on_tiles, project
from kernels.matvec.product import Geometry, Product, Term, job
from kernels.matvec.weight import why_not
from tests.kernels.layers import EPS, Maker, Packed, Packing, error, normed, relu2, rms, times, wide

# fp32 sums; building floats under a power of two costs about 15 of 24 bits at 8 bits (see product.h)
EXACT = 5e-5
BF16 = 4e-3  # one rounding of each result, 2^-9 at most


@pytest.mark.parametrize(
    ("bits", "group", "rows", "depth", "vectors"),
    [
        (8, 32, 37, 2688, 1),
        (8, 64, 9, 5376, 3),
        (8, 128, 41, 1024, 8),
        (6, 32, 33, 1856, 2),
        (6, 64, 12, 3712, 1),
        (5, 128, 20, 2688, 1),
        (5, 32, 7, 96, 5),
        (4, 32, 9, 96, 1),
        (4, 64, 64, 1856, 4),
        (4, 128, 5, 8192, 1),
        (16, 32, 33, 200, 7),
        (16, 32, 1, 4096, 1),
        (16, 32, 33, 160, 12),
        (4, 128, 50, 1024, 16),
        (4, 64, 17, 2688, 9),
        (8, 64, 35, 704, 6),
    ],
)
def test_equals_fp32(dialect: str, bits: int, group: int, rows: int, depth: int, vectors: int) -> None:
    make = Maker(bits + depth)
    matrix, x = make.matrix(rows, depth, bits=bits, group=group), make.normal(vectors, depth)
    if vectors > most_vectors(matrix):
        pytest.skip("without matrix units a product takes 8 vectors")
    (got,) = project(x, [Output(matrix, dtype=mx.float32)])
    assert error(got, times(x, matrix)) < EXACT


@pytest.mark.parametrize(("vectors", "depth", "bits"), [(1, 2688, 8), (8, 4096, 4), (3, 96, 5), (2, 264, 16)])
def test_norm_before_several_matrices(dialect: str, vectors: int, depth: int, bits: int) -> None:
    make = Maker(depth)
    first, second = make.matrix(19, depth, bits=bits), make.matrix(40, depth)
    x, gain = make.normal(vectors, depth) * 30, make.gain(depth)
    y, z = project(x, [Output(first, relu2=True), Output(second, dtype=mx.float32)], gain)
    assert error(y, relu2(times(normed(x, gain), first))) < 3 * BF16  # x rounds once more, and is squared
    assert error(z, times(normed(x, gain), second)) < BF16


def test_sum_of_products_and_addends(dialect: str) -> None:
    make = Maker(1)
    pairs = [(make.normal(3, 64), make.matrix(50, 64, bits=8)), (make.normal(3, 2688), make.matrix(50, 2688, bits=4))]
    addends = [make.normal(3, 50), make.normal(3, 50)]
    want = sum(times(x, m) for x, m in pairs) + wide(addends[0]) + wide(addends[1])
    assert error(combine(pairs, addends), want) < BF16


@pytest.mark.parametrize("vectors", [1, 4, 7])
def test_group_norm_from_sums_of_squares(dialect: str, vectors: int) -> None:
    make = Maker(2)
    x, gain, matrix = make.normal(vectors, 768), make.normal(768), make.matrix(21, 768, bits=8, group=64)
    sums = mx.square(wide(x)).reshape(vectors, 3, 4, 64).sum(-1)
    weighted = (wide(x) * wide(gain)).astype(mx.bfloat16)
    got = combine([(weighted, matrix)], [mx.zeros((vectors, 21), mx.bfloat16)], Squares(sums, EPS))
    assert error(got, times(rms(wide(x), 3) * wide(gain), matrix)) < 2 * BF16


@pytest.mark.parametrize("cut", [Geometry(1, 1, 1), Geometry(8, 4, 8), Geometry(4, 2, 2), Geometry(16, 8, 1)], ids=str)
def test_every_cut_gives_the_same(dialect: str, cut: Geometry) -> None:
    make = Maker(3)
    matrix, x = make.matrix(45, 1120, bits=8), make.normal(1, 1120)
    work = job(Product((Term(8, 32, 1120),), 45, 1, out="f32"), cut)
    (got,) = launch((work,), [x, matrix.weight, matrix.scales, matrix.biases], [(1, 45)], [mx.float32])
    assert error(got, times(x, matrix)) < EXACT


@pytest.mark.parametrize(("bits", "rows", "depth"), [(8, 24, 4096), (4, 9, 8192), (5, 6, 2688), (16, 5, 4096)])
def test_a_vector_alone_equals_itself_among_others(dialect: str, bits: int, rows: int, depth: int) -> None:
    """Bit for bit, though eight vectors are staged in several pieces and one in one; and so on the matrix units."""
    make = Maker(depth + rows)
    matrix, x, gain = make.matrix(rows, depth, bits=bits, group=64), make.normal(8, depth), make.gain(depth)
    few = 5 if on_tiles(8, matrix) else 1
    (together,) = project(x, [Output(matrix, dtype=mx.float32)], gain)
    plain = combine([(x, matrix)], [x[:, :rows]])
    for s in (0, 8 - few):
        part = slice(s, s + few)
        (alone,) = project(x[part], [Output(matrix, dtype=mx.float32)], gain)
        assert mx.array_equal(alone, together[part])
        assert mx.array_equal(combine([(x[part], matrix)], [x[part, :rows]]), plain[part])


def test_nan_reaches_the_result(dialect: str) -> None:
    make = Maker(4)
    x = mx.concatenate([make.normal(1, 63), mx.array([[float("nan")]], dtype=mx.bfloat16)], axis=1)
    (got,) = project(x, [Output(make.matrix(8, 64, bits=8), relu2=True)])
    assert mx.all(mx.isnan(got))


@pytest.mark.parametrize(
    ("matrix", "why"),
    [
        (Packed(mx.zeros((8, 64))), "float32"),
        (Packed(mx.zeros((8, 63), mx.bfloat16)), "multiple of 8"),
        (Packed(mx.zeros((8, 64), mx.bfloat16), bias=mx.zeros((8,))), "bias"),
        (Packed(mx.zeros((8, 8), mx.uint32), mx.zeros((8, 2)), None, Packing(4, 32, "mxfp4")), "mxfp4"),
        (Packed(mx.zeros((8, 6), mx.uint32), mx.zeros((8, 2)), mx.zeros((8, 2)), Packing(3, 32)), "3 bits"),
        (Packed(mx.zeros((8, 16), mx.uint32), mx.zeros((8, 2)), mx.zeros((8, 2)), Packing(8, 32)), "scales"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_formats_left_to_mlx(matrix: Packed, why: str) -> None:
    assert why in (why_not(matrix) or "")


def test_too_many_vectors() -> None:
    with backend.using("host"), pytest.raises(ValueError, match="1 to 8 vectors, not 9"):
        project(mx.zeros((9, 64), mx.bfloat16), [Output(Maker(5).matrix(8, 64))])
    with backend.using("host", matrix_units=True), pytest.raises(ValueError, match="5 to 16 vectors, not 17"):
        project(mx.zeros((17, 64), mx.bfloat16), [Output(Maker(5).matrix(8, 64))])


def test_formats_that_the_matrix_units_leave_alone() -> None:
    make = Maker(6)
    with backend.using("host", matrix_units=True):
        assert on_tiles(8, make.matrix(8, 128, bits=4, group=64), make.matrix(8, 64, bits=8))
        assert not on_tiles(4, make.matrix(8, 64, bits=8))
        assert not on_tiles(8, make.matrix(8, 64, bits=8), make.matrix(8, 64, bits=5))
        assert not on_tiles(8, make.matrix(8, 64, bits=4, group=32))
        assert not on_tiles(8, make.matrix(8, 192, bits=4, group=64), groups=2)
    with backend.using("host"):
        assert not on_tiles(8, make.matrix(8, 64, bits=8))
