"""A load for a server: when requests arrive and how long they are. Pure and seeded: the same numbers, the same load."""

import random
from dataclasses import dataclass

# common short words; with most tokenizers each is one token
WORDS = ("the", "of", "and", "to", "in", "is", "was", "for", "that", "it", "with", "as", "on", "be", "at", "by", "had")
TOKEN_IDS = 256  # of prompts given as ids: every vocabulary has that many


@dataclass(frozen=True, slots=True)
class Planned:
    """One request: `at` seconds after the start, a prompt of so many tokens, an answer of at most so many."""

    at: float
    prompt_tokens: int
    answer_tokens: int
    seed: int

    def token_ids(self) -> list[int]:
        """The prompt as ids, exactly `prompt_tokens` of them."""
        return random.Random(self.seed).choices(range(TOKEN_IDS), k=self.prompt_tokens)

    def text(self) -> str:
        """The prompt as words, for servers that take no ids: about `prompt_tokens` tokens."""
        return " ".join(random.Random(self.seed).choices(WORDS, k=self.prompt_tokens))


def plan_load(
    requests: int, *, rate: float, prompt_tokens: int, answer_tokens: int, spread: float, seed: int
) -> list[Planned]:
    """`requests` requests that arrive at random, `rate` a second (a Poisson process); infinite: all at once.

    Lengths are uniform within `spread` (0 to 1) of their means.
    """
    chance = random.Random(seed)
    planned: list[Planned] = []
    at = 0.0
    for _ in range(requests):
        planned.append(
            Planned(
                at,
                _length(chance, prompt_tokens, spread),
                _length(chance, answer_tokens, spread),
                chance.getrandbits(32),
            )
        )
        at += chance.expovariate(rate) if rate != float("inf") else 0.0
    return planned


def _length(chance: random.Random, mean: int, spread: float) -> int:
    return max(1, round(mean * chance.uniform(1 - spread, 1 + spread)))
