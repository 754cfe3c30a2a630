"""The launcher and the host dialect: real barriers, real simd operations, nothing left unwritten unseen."""

import mlx.core as mx
import pytest

from kernels import backend
from kernels.dialect.host import HostError
from kernels.dialect.kernel import Kernel


def kernel(body: str, threads: int = 64, outputs: tuple[str, ...] = ("out",)) -> Kernel:
    return Kernel("probe", ("x",), outputs, body, (), threads)


def run(body: str, size: int, groups: int = 1, threads: int = 64, dtype: mx.Dtype = mx.float32) -> mx.array:
    x = mx.arange(max(size, 64), dtype=mx.float32)
    return kernel(body, threads)([x], (groups, 1), [(size,)], [dtype])[0]


def test_barrier_orders_threadgroup_memory(dialect: str) -> None:
    body = """
      SHARED_ARRAY(float, box, 64);
      box[tid] = x[group_x * 64 + tid];
      barrier();
      out[group_x * 64 + tid] = box[63 - tid];
    """
    got = run(body, 192, groups=3)
    assert got.tolist() == [float(g * 64 + 63 - t) for g in range(3) for t in range(64)]


def test_simd_operations_see_32_lanes(dialect: str) -> None:
    body = """
      float total = simd_total(x[tid]), top = simd_largest(-x[tid]), other = simd_from(x[tid], (lane + 1) % 32);
      u32 votes = simd_votes(lane % 3 == 0);
      out[tid] = total; out[64 + tid] = top; out[128 + tid] = other; out[192 + tid] = float(count_bits(votes));
    """
    got = run(body, 256).reshape(4, 2, 32)
    assert got[0].tolist() == [[496.0] * 32, [1520.0] * 32]
    assert got[1].tolist() == [[0.0] * 32, [-32.0] * 32]
    assert got[2].tolist() == [[float(s * 32 + (i + 1) % 32) for i in range(32)] for s in range(2)]
    assert got[3].tolist() == [[11.0] * 32] * 2


@pytest.mark.parametrize("bits", [0x3F800000, 0x3F808000, 0x3F818000, 0x7F800000, 0xFF7FFFFF, 0x00000001, 0x7FC00001])
def test_bf16_rounds_to_nearest_even(dialect: str, bits: int) -> None:
    value = mx.array([bits] * 64, dtype=mx.uint32).view(mx.float32)
    body = "((GLOBAL u16*)out)[tid] = (u16)round_bf16(x[tid]);"
    (got,) = kernel(body)([value], (1, 1), [(64,)], [mx.bfloat16])
    want = value.astype(mx.bfloat16)
    assert mx.array_equal(got, want, equal_nan=True)


def test_unwritten_output_is_nan() -> None:
    with backend.using("host"):
        got = run("if (tid > 0) out[tid] = x[tid];", 64)
    assert mx.isnan(got).tolist() == [True] + [False] * 63


def test_unwritten_threadgroup_memory_is_nan() -> None:
    with backend.using("host"):
        got = run(
            "SHARED_ARRAY(float, box, 64); if (group_x == 0) box[tid] = 1; barrier(); out[tid] = box[tid];",
            64,
            groups=2,
        )
    assert mx.all(mx.isnan(got))


@pytest.mark.parametrize(
    "body",
    ["if (tid < 32) barrier(); out[tid] = 0;", "if (lane < 7) out[tid] = simd_total(x[tid]); else out[tid] = 0;"],
    ids=["barrier", "simd"],
)
def test_divergence_is_an_error(body: str) -> None:
    with (
        backend.using("host"),
        pytest.raises(HostError, match="wait at a barrier or simd operation that others never reach"),
    ):
        run(body, 64)


def test_a_text_that_does_not_compile_says_why() -> None:
    with backend.using("host"), pytest.raises(HostError, match="nonsense"):
        run("out[tid] = nonsense;", 64)


@pytest.mark.parametrize("threads", [0, 33, 2048])
def test_threads_that_no_platform_takes(threads: int) -> None:
    with pytest.raises(ValueError, match="32 to 1024"):
        kernel("", threads)


def test_backend_says_why() -> None:
    assert backend.current().why
    with backend.using("reference"):
        assert not backend.current().fused
        with pytest.raises(RuntimeError, match="no dialect"):
            run("out[tid] = 0;", 64)
