import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.telemetry.shares import Shares, shares
from worker.protocol import Heartbeat

START = 1e5  # no clock begins at 0


def beat(elapsed: float, *, busy: float = 0.0, **totals: float) -> Heartbeat:
    return Heartbeat(
        epoch=1,
        steps=0,
        busy_seconds=busy,
        step_seconds=0.0,
        memory_bytes=0,
        state_bytes=0,
        sequences=0,
        stale_messages=0,
        duplicate_messages=0,
        elapsed_seconds=START + elapsed,
        **totals,  # type: ignore[arg-type]
    )


def spent(**totals: float) -> Shares:
    """Shares of ten seconds."""
    got = shares(beat(0), beat(10, **totals))
    assert got is not None
    return got


def test_each_total_is_its_share() -> None:
    got = spent(compute_seconds=4, wait_seconds=3, encode_seconds=1)
    assert (got.busy, got.wait, got.transfer) == pytest.approx((0.4, 0.3, 0.1))


def test_the_step_under_way_counts() -> None:
    assert spent(busy=2.5).busy == pytest.approx(0.25)


def test_a_hop_is_taken_out_of_the_bubble_and_nowhere_else() -> None:
    got = spent(wait_seconds=3, hop_seconds=0.002, decode_steps=1000)
    assert (got.wait, got.transfer) == pytest.approx((0.1, 0.2))
    got = spent(wait_seconds=1, hop_seconds=0.002, decode_steps=1000)
    assert (got.wait, got.transfer) == pytest.approx((0.0, 0.1))


def test_no_time_no_shares() -> None:
    assert shares(beat(1), beat(1)) is None


@given(*[st.floats(0, 100)] * 6, st.integers(0, 1000))
def test_shares_are_shares(
    elapsed: float, compute: float, wait: float, encode: float, busy_before: float, busy_after: float, steps: int
) -> None:
    before = beat(0, busy=busy_before)
    after = beat(
        elapsed + 0.01,
        busy=busy_after,
        compute_seconds=compute,
        wait_seconds=wait,
        encode_seconds=encode,
        hop_seconds=0.01,
        decode_steps=steps,
    )
    got = shares(before, after)
    assert got is not None
    parts = (got.busy, got.wait, got.transfer)
    assert all(0 <= part <= 1 for part in parts)
    assert sum(parts) <= 1 + 1e-9
