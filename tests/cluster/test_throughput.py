"""How a full pipeline behaves, measured by its clients: throughput and latency.

The stages sleep in every step, so that they do not compete for the cores of this machine; what they are compared with
is the time that the stages themselves measured for their steps. Medians, because other programs run here too; the exact
times, on a clock without noise, are in `tests/sim/test_timing.py`.
"""

import math
import time
from statistics import median

import httpx
import mlx.core as mx
import pytest

from coordinator.demo import write_tokenizer
from tests.checkpoints import BASE, make
from tests.cluster.load import Answer, body, serve, until
from tests.cluster.running import running
from tests.cluster.slowed import slow_down

STEP = 0.03
VOCABULARY = {"vocab_size": 272, "eos_token_id": [256], "hybrid_override_pattern": "MEM*E-ME"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    make(directory, BASE | VOCABULARY, dtype=mx.float32)
    write_tokenizer(directory)
    return directory


@pytest.fixture(scope="module")
def without_attention(tmp_path_factory):
    """All its steps take the same time, wherever in a sequence they are."""
    directory = tmp_path_factory.mktemp("model")
    make(directory, BASE | VOCABULARY | {"hybrid_override_pattern": "MEMEME"}, dtype=mx.float32)
    write_tokenizer(directory)
    return directory


def percentile(values, share):
    return sorted(values)[math.ceil(share * len(values)) - 1]


def steps(cluster):
    """Seconds of a decode step on each stage, as the stages have measured them."""
    time.sleep(0.6)  # until the next heartbeat
    return [stage["decode_p50"] for stage in cluster.cluster()["stages"]]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("stages", [2, 4])
def test_latency_is_the_sum_of_the_stages_and_throughput_that_of_a_full_pipeline(model, stages, monkeypatch):
    slow_down(monkeypatch, step=STEP)
    with running(model, stages=stages) as cluster:
        (alone,) = serve(cluster.url, [body([5, 6, 7], 20)])
        alone_steps = steps(cluster)
        together = serve(cluster.url, [body([5, 6, 7 + number], 30) for number in range(8)])
        full_steps = steps(cluster)
    latency, interval = median(alone.gaps[5:]), median(gap for answer in together for gap in answer.gaps[9:])
    # every stage busy all the time, with one step after the other, each for the members of one of `stages` batches
    ideal = 8 / stages / max(full_steps)
    rate = 8 / interval
    print(
        f"\n{stages} stages: one sequence {1 / latency:.1f} tok/s, {latency / sum(alone_steps):.3f} of the stages; "
        f"eight {rate:.1f} tok/s, {rate / ideal:.3f} of {ideal:.1f}, {rate * latency:.1f} times one"
    )
    assert latency <= 1.05 * sum(alone_steps)
    assert rate >= 0.9 * ideal
    assert rate >= 0.9 * stages / latency  # as if nothing stepped together


@pytest.mark.timeout(120)
@pytest.mark.parametrize("stages", [2, 4])
def test_a_long_prompt_holds_running_answers_up_by_one_piece_at_most(without_attention, stages, monkeypatch):
    """By the 99th percentile. Before the prompt it counts up to 1.5 medians only, so that a stall of this machine
    cannot improve the result; it can spoil it, so the best of five tries counts."""
    piece, pieces = 64, -(-4000 // 64)
    slow_down(monkeypatch, step=0.01, row=0.0007)
    seen = []
    with running(without_attention, stages=stages, arguments=["--prefill-chunk", str(piece)]) as cluster:
        for attempt in range(5):
            span = []

            async def long_prompt(answers, attempt=attempt, span=span):
                await until(lambda: all(len(answer.times) > 40 for answer in answers))
                async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
                    span.append(time.monotonic())
                    await Answer().read(client, cluster.url, body([attempt] * piece * pieces, 1))
                    span.append(time.monotonic())

            answers = serve(cluster.url, [body([9, number], 90) for number in range(4)], meanwhile=long_prompt)
            steps = [event for event in cluster.get("/trace").json()["traceEvents"] if event["name"] == "prefill"]
            computed = [step["dur"] / 1e6 for step in steps if step["args"].get("rows") == piece]
            assert len(computed) >= (attempt + 1) * stages * (pieces - 1)
            began, ended = span
            gaps = [pair for answer in answers for pair in zip(answer.times[1:], answer.gaps, strict=True)]
            quiet = [gap for end, gap in gaps[8:] if end < began]
            before = min(percentile(quiet, 0.99), 1.5 * median(quiet))
            during = percentile([gap for end, gap in gaps if began < end <= ended], 0.99)
            seen.append(
                f"p99 {before:.4f} s, during the prompt {during:.4f} s; a piece {percentile(computed, 0.9):.4f} s"
            )
            if during <= before + percentile(computed, 0.9):
                break
        else:
            pytest.fail(f"{stages} stages: " + ", ".join(seen))
    print(f"\n{stages} stages: {', '.join(seen)}")
