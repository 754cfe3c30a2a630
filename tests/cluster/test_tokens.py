"""A cluster's greedy tokens over HTTP are those of mlx-lm, however the layers are cut.

The checkpoints are made by mlx-lm's own code and stand for those that users download. mlx-lm runs in float32, where
its router's logits are float32 too, as ours always are. A float32 checkpoint must give the very same tokens. A bfloat16
one rounds its activations, so there a token may differ, but only where mlx-lm's two best logits are a few roundings
apart. (mlx-lm in bfloat16 is no reference on a CPU: MLX sums quantised products in bfloat16 there and has no dense
expert products.) All clusters must give the tokens of the first one.
"""

from concurrent.futures import ThreadPoolExecutor

import mlx.core as mx
import pytest
from mlx_lm.generate import generate_step
from mlx_lm.utils import load_model

from coordinator.demo import write_tokenizer
from tests.checkpoints import BASE, CONFIGS, make
from tests.cluster.running import running

TOKENS = 64
PROMPTS = [[5], [9, 8, 7, 6], list(range(10, 45)), [200, 3] * 40, [(7 * i) % 256 for i in range(150)]]
EVERY_CUT = (1, 2, 3, 8)
CLOSE = 0.1  # logits are 4 to 8 here, where neighbouring bfloat16 numbers are 0.03 apart
VOCABULARY = {"vocab_size": 272, "eos_token_id": [256]}
PATTERN = {"hybrid_override_pattern": "MEM*E-ME"}

# a cut hands over hidden states, whatever the layers are: every cut for each way to compute, one for each further layer
CHECKPOINTS = {
    "float32 latent": (BASE | PATTERN, mx.float32, None, EVERY_CUT),
    "float32 grouped": (CONFIGS["grouped"] | PATTERN, mx.float32, None, (2,)),
    "float32 no shared experts": (CONFIGS["alone"] | PATTERN, mx.float32, None, (3,)),
    "8 bits": (BASE | PATTERN, mx.float32, {"bits": 8, "group_size": 32}, (2,)),
    "6 bits, no latent": (CONFIGS["nano"] | PATTERN, mx.float32, {"bits": 6, "group_size": 64}, (3,)),
    "4 bits": (BASE | PATTERN, mx.float32, {"bits": 4, "group_size": 32}, EVERY_CUT),
    "bfloat16": (BASE | PATTERN, mx.bfloat16, None, (1, 3)),
    "bfloat16 8 bits": (BASE | PATTERN, mx.bfloat16, {"bits": 8, "group_size": 32}, EVERY_CUT),
}


def reference(directory):
    """For each prompt mlx-lm's greedy tokens, and how far the best logit was above the second one."""
    model, _ = load_model(directory)
    model.set_dtype(mx.float32)
    answers = []
    for prompt in PROMPTS:
        tokens, margins = [], []
        for token, logprobs in generate_step(mx.array(prompt), model, max_tokens=TOKENS):
            second, first = mx.sort(logprobs.astype(mx.float32))[-2:].tolist()
            tokens.append(int(token))
            margins.append(first - second)
        answers.append((tokens, margins))
    return answers


def answers_of(directory, stages):
    """The tokens of a cluster for each prompt; the prompts at once, which must not matter, and takes less time."""
    with (
        running(directory, stages=stages, arguments=["--prefill-chunk", "64"]) as cluster,
        ThreadPoolExecutor(len(PROMPTS)) as clients,
    ):
        return list(clients.map(lambda prompt: cluster.complete(prompt, TOKENS, ignore_eos=True), PROMPTS))


def check(tokens, answer, dtype):
    expected, margins = answer
    different = next((i for i, pair in enumerate(zip(tokens, expected, strict=True)) if pair[0] != pair[1]), None)
    if dtype == mx.float32:
        assert different is None, (different, tokens, expected)
    elif different is not None:  # from there on the two write different texts
        assert margins[different] < CLOSE, (different, margins[different])


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", CHECKPOINTS, ids=lambda name: name.replace(" ", "-"))
def test_tokens_are_those_of_mlx_lm_for_every_cut(name, tmp_path):
    config, dtype, quantize, cuts = CHECKPOINTS[name]
    make(tmp_path, config | VOCABULARY, dtype=dtype, quantize=quantize)
    write_tokenizer(tmp_path)
    found = {stages: answers_of(tmp_path, stages) for stages in cuts}
    first = found[cuts[0]]
    assert all(tokens == first for tokens in found.values()), found
    for own, answer in zip(first, reference(tmp_path), strict=True):
        check(own, answer, dtype)
