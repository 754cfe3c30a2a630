"""Tokens from logits: each setting by hand, the distribution, and what a row must not depend on."""

import math

import mlx.core as mx
import pytest

from worker.model.sampling import Sampler
from worker.protocol import Sampling

LOGITS = [1.0, 3.0, 2.0, 3.0, -1.0, 0.5]
DRAWS = 20000


def choose(sampling: Sampling, logits: list[float] = LOGITS, prompt: tuple[int, ...] = (), position: int = 0) -> int:
    sampler = Sampler()
    sampler.open(1, sampling, prompt)
    return int(sampler(mx.array([logits]), [1], [position]).item())


def frequencies(sampling: Sampling, logits: list[float] = LOGITS) -> list[float]:
    """How often each token is drawn, over many positions."""
    sampler = Sampler()
    sampler.open(1, sampling)
    tokens = sampler(mx.tile(mx.array([logits]), (DRAWS, 1)), [1] * DRAWS, range(DRAWS))
    return [(tokens == token).sum().item() / DRAWS for token in range(len(logits))]  # type: ignore[operator]


def softmax(logits: list[float], temperature: float = 1.0) -> list[float]:
    weights = [math.exp(logit / temperature) for logit in logits]
    return [weight / sum(weights) for weight in weights]


def assert_distributed(found: list[float], wanted: list[float]) -> None:
    """Within 4.5 standard deviations; what must not occur does not."""
    for one, p in zip(found, wanted, strict=True):
        assert abs(one - p) <= 4.5 * math.sqrt(p * (1 - p) / DRAWS)


def test_greedy_takes_the_lowest_of_equal_logits() -> None:
    assert choose(Sampling(temperature=0)) == 1


def test_all_greedy_rows_of_any_dtype_are_uint32() -> None:
    sampler = Sampler()
    sampler.open(1, Sampling(temperature=0))
    tokens = sampler(mx.array([LOGITS, LOGITS[::-1]]).astype(mx.bfloat16), [1, 1], [0, 1])
    assert (tokens.dtype, tokens.tolist()) == (mx.uint32, [1, 2])


def test_draws_follow_the_softmax() -> None:
    assert_distributed(frequencies(Sampling(seed=1)), softmax(LOGITS))


def test_draws_follow_the_softmax_at_a_temperature() -> None:
    assert_distributed(frequencies(Sampling(seed=2, temperature=2.5)), softmax(LOGITS, 2.5))


def test_draws_over_positions_and_over_seeds_are_alike() -> None:
    sampler = Sampler()
    for seed in range(2000):
        sampler.open(seed, Sampling(seed=seed))
    tokens = sampler(mx.tile(mx.array([LOGITS]), (2000, 1)), range(2000), [7] * 2000)
    p = softmax(LOGITS)[1]
    assert abs((tokens == 1).sum().item() / 2000 - p) < 4.5 * math.sqrt(p * (1 - p) / 2000)  # type: ignore[operator]


def test_noise_reaches_far_tails() -> None:
    # 60000 equal logits: the winner's noise is about log(60000) = 11, where coarse noise would repeat values
    sampler = Sampler()
    sampler.open(1, Sampling(seed=3))
    tokens = sampler(mx.zeros((200, 60000)), [1] * 200, range(200)).tolist()
    assert len(set(tokens)) > 190  # type: ignore[arg-type]
    assert 24000 < sum(tokens) / 200 < 36000  # type: ignore[operator]


def test_top_k_keeps_the_k_likeliest_and_of_equal_ones_the_lower_ids() -> None:
    wanted = [0.0, 0.5, 0.0, 0.5, 0.0, 0.0]
    assert_distributed(frequencies(Sampling(seed=4, top_k=2)), wanted)
    assert frequencies(Sampling(seed=4, top_k=1)) == [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]


def test_top_k_larger_than_the_vocabulary_is_off() -> None:
    assert_distributed(frequencies(Sampling(seed=5, top_k=100)), softmax(LOGITS))


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    # probabilities in descending order: .4, .3, .2, .1
    logits = [math.log(p) for p in (0.1, 0.4, 0.2, 0.3)]
    assert_distributed(frequencies(Sampling(seed=6, top_p=0.6), logits), [0, 4 / 7, 0, 3 / 7])
    assert_distributed(frequencies(Sampling(seed=6, top_p=0.75), logits), [0, 4 / 9, 2 / 9, 3 / 9])
    assert frequencies(Sampling(seed=6, top_p=0.0), logits) == [0.0, 1.0, 0.0, 0.0]


def test_top_p_counts_after_top_k() -> None:
    # of the two kept, .4 and .3, the first holds 4/7 = .571 of the mass
    logits = [math.log(p) for p in (0.1, 0.4, 0.2, 0.3)]
    assert frequencies(Sampling(seed=7, top_k=2, top_p=0.57), logits)[1] == 1.0
    assert_distributed(frequencies(Sampling(seed=7, top_k=2, top_p=0.58), logits), [0, 4 / 7, 0, 3 / 7])


def test_min_p_drops_what_is_unlikely_beside_the_likeliest() -> None:
    logits = [math.log(p) for p in (0.1, 0.4, 0.2, 0.3)]
    assert_distributed(frequencies(Sampling(seed=8, min_p=0.49), logits), [0, 4 / 9, 2 / 9, 3 / 9])
    assert_distributed(frequencies(Sampling(seed=8, min_p=0.51), logits), [0, 4 / 7, 0, 3 / 7])


def test_min_p_looks_at_probabilities_after_the_temperature() -> None:
    # at temperature 2 the odds .1 : .4 become .5
    logits = [math.log(p) for p in (0.1, 0.4)]
    assert frequencies(Sampling(seed=9, min_p=0.45, temperature=2.0), logits)[0] > 0
    assert frequencies(Sampling(seed=9, min_p=0.55, temperature=2.0), logits)[0] == 0


@pytest.mark.parametrize(
    ("sampling", "prompt", "wanted"),
    [
        (Sampling(temperature=0, repetition_penalty=2.0), (), [1, 3, 2, 1]),
        (Sampling(temperature=0, repetition_penalty=2.0), (1,), [3, 2, 1, 1]),
        (Sampling(temperature=0, presence_penalty=1.5), (1, 1), [1, 3, 2, 1]),
        (Sampling(temperature=0, frequency_penalty=0.8), (1, 1), [1, 3, 1, 3]),
        (Sampling(temperature=0, frequency_penalty=-1.0), (), [1, 1, 1, 1]),
    ],
    ids=["repetition", "repetition-over-the-prompt", "presence", "frequency", "frequency-negative"],
)
def test_penalties_by_hand(sampling: Sampling, prompt: tuple[int, ...], wanted: list[int]) -> None:
    # logits 1, 3, 2, 3, -1, .5. repetition halves what was seen: 3 -> 1.5 once; presence takes 1.5 once;
    # frequency takes .8 for each time: 3, 2.2, 1.4
    sampler = Sampler()
    sampler.open(1, sampling, prompt)
    tokens = [sampler(mx.array([LOGITS]), [1], [position]) for position in range(4)]
    # read only here: the next step must not need the token on the host
    assert [token.item() for token in tokens] == wanted


def test_repetition_penalty_makes_negative_logits_more_negative() -> None:
    sampling = Sampling(temperature=0, repetition_penalty=2.0)
    assert choose(sampling, [-1.0, -1.5, -9.0], prompt=(0,)) == 1


MANY = [
    Sampling(temperature=0),
    Sampling(seed=1),
    Sampling(seed=1),
    Sampling(seed=2, temperature=0.7, top_p=0.9),
    Sampling(seed=3, top_k=5),
    Sampling(seed=4, min_p=0.1, temperature=1.3),
    Sampling(seed=5, top_k=20, top_p=0.8, min_p=0.01),
    Sampling(seed=6, repetition_penalty=1.3, frequency_penalty=0.2),
    Sampling(temperature=0, presence_penalty=1.0),
    Sampling(seed=7, top_p=0.95, presence_penalty=0.5),
]


def answers(batches: list[list[int]]) -> dict[int, list[int]]:
    """Tokens of each row of MANY when they step in these batches, each at its own positions, with its own logits."""
    sampler, found = Sampler(), {request: [] for batch in batches for request in batch}
    for request in found:
        sampler.open(request, MANY[request], (request, 3))
    for batch in batches:
        positions = [10 + len(found[request]) for request in batch]
        keys = [mx.random.key(100 * request + position) for request, position in zip(batch, positions, strict=True)]
        logits = mx.stack([mx.random.normal((50,), key=key) * 2 for key in keys])
        for request, token in zip(batch, sampler(logits, batch, positions), strict=True):
            found[request].append(int(token.item()))
    return found


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    everyone = list(range(len(MANY)))
    together = answers([everyone, everyone[::-1], everyone[::2] + everyone[1::2]])
    for request in everyone:
        assert answers([[request]] * 3)[request] == together[request]
    pairs = answers([[1, 3], [3, 1], [1], [3]])
    assert (pairs[1], pairs[3]) == (together[1], together[3])


def test_seed_and_position_decide() -> None:
    flat = [0.0] * 1000
    assert choose(Sampling(seed=1), flat, position=5) == choose(Sampling(seed=1), flat, position=5)
    seen = {choose(Sampling(seed=seed), flat, position=position) for seed in (0, 1, -1, 2**63) for position in range(5)}
    assert len(seen) > 15


def test_a_closed_request_leaves_nothing_behind() -> None:
    sampler, sampling = Sampler(), Sampling(temperature=0, presence_penalty=5.0)
    for _ in range(2):
        sampler.open(1, sampling)
        assert [sampler(mx.array([LOGITS]), [1], [position]).item() for position in (0, 1)] == [1, 3]
        sampler.close(1)
    sampler.close(1)
    sampler.open(2, sampling)
    assert sampler(mx.array([LOGITS]), [2], [0]).item() == 1


@pytest.mark.parametrize("temperature", [0.0, 1e-6, 1e-3], ids=str)
def test_low_temperatures_stay_finite(temperature: float) -> None:
    assert choose(Sampling(seed=1, temperature=temperature), [1e4, 1e4 + 1, -1e30]) == 1
