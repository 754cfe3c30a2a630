"""Decode through the fused kernels on a real GPU: the whole path that a worker runs, on random weights."""

from itertools import pairwise

import mlx.core as mx
import pytest

from kernels import backend
from worker.checkpoint.quantization import Quantization
from worker.model.engine import Engine
from worker.model.random_model import first_layers, random_parts
from worker.model.stage import Stage
from worker.presets import preset
from worker.protocol import Activations, Open, Sampling, Segment, Tokens

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.metal,
    pytest.mark.skipif(not backend.current().fused, reason="MLX has no GPU here"),
    pytest.mark.timeout(300),  # every kernel is compiled on its first use
]
TOKENS = 48
PROMPTS = ([3, 14, 15], list(range(40)), [9])


class Line:
    """Stages in a row, with the loop of a cluster in one process."""

    def __init__(self, parts, spec, cuts):
        self.engines = []
        for first, end in pairwise(cuts):
            layers = [{} for _ in range(first, end)]
            ends = {}
            for index, part, made in parts:
                if index is not None and first <= index < end:
                    layers[index - first][part.key] = made
                elif index is None and (first == 0 if part.key == "embedding" else end == len(spec.layers)):
                    ends[part.key] = made
            stage = Stage(spec, first, end, layers, **ends)
            self.engines.append(Engine(stage, hidden_size=spec.hidden_size, is_last=end == len(spec.layers)))

    def open(self, request):
        for engine in self.engines:
            engine.open(Open(epoch=0, request=request, sampling=Sampling(temperature=0), stop_tokens=(), limit=1 << 20))

    def step(self, batch, segments, tokens):
        output = self.engines[0].finish(self.engines[0].start_tokens(batch, segments, tokens), 0)
        for engine in self.engines[1:]:
            assert isinstance(output[0], Activations)
            output = engine.finish(engine.start_hidden(*output), 0)
        assert isinstance(output, Tokens)
        return [sampled.token for sampled in output.tokens]

    def answer(self, prompts):
        """Greedy tokens of prompts that decode together."""
        requests = range(len(prompts))
        last = []
        for request, prompt in zip(requests, prompts, strict=True):
            self.open(request)
            last += self.step(None, (Segment(request, 0, len(prompt), True),), prompt)
        tokens = [last]
        for step in range(TOKENS):
            segments = tuple(Segment(r, len(prompts[r]) + step, 1, True) for r in requests)
            tokens.append(self.step(0, segments, tokens[-1]))
        for engine in self.engines:
            for request in requests:
                engine.close(request)
        return list(zip(*tokens, strict=True))


@pytest.fixture(scope="module", params=["8:32", "4:64"])
def model(request):
    """The layers of Nemotron-3-Nano up to its second attention layer."""
    from worker.checkpoint.config import read_spec

    bits, group = map(int, request.param.split(":"))
    spec = read_spec(first_layers(preset("nano")["config"], 14), "preset")
    parts = list(random_parts(spec, Quantization(bits, group)))
    mx.eval([made.arrays if hasattr(made, "arrays") else made for _, _, made in parts])
    return parts, spec


def test_staged_is_whole_and_batched_is_alone(model):
    """Bit for bit the same logits, so the same tokens. A stage has compared each fused layer with its block already."""
    parts, spec = model
    whole = Line(parts, spec, (0, 14))
    assert whole.engines[0]._stage.fused_layers == 14, whole.engines[0]._stage.unfused
    together = whole.answer(PROMPTS)
    assert Line(parts, spec, (0, 5, 6, 14)).answer(PROMPTS) == together
    assert [whole.answer([prompt])[0] for prompt in PROMPTS] == together
