"""A conversation's second turn computes only what is new, with the tokens that it would have had anyway.

Counted where the work is done: by the rows that every stage has prefilled.
"""

import os
import re
import signal
import time

import httpx
import mlx.core as mx
import pytest

from coordinator.demo import write_tokenizer
from tests.checkpoints import BASE, make
from tests.cluster.running import events, running

CONFIG = BASE | {"vocab_size": 272, "eos_token_id": [256], "hybrid_override_pattern": "MEM*E-ME"}
ANSWER = 24
BLOCK = 64
SYSTEM = "You are a careful assistant. " * 12
PROMPT = [(i * i * 7 + 3 * i) % 250 for i in range(3000)]


def checkpoint_in(directory, dtype):
    make(directory, CONFIG, dtype=dtype, quantize=None)
    write_tokenizer(directory)
    return directory


def prefilled(cluster):
    """Prompt rows that each stage has computed."""
    counts = []
    for stage in cluster.cluster()["stages"]:
        text = httpx.get(f"http://{stage['metrics']}/metrics", trust_env=False).text
        counts.append(int(float(re.search(r'stageline_stage_rows_total\{.*phase="prefill".*\} (\S+)', text)[1])))
    return counts


def complete(cluster, prompt, **fields):
    """Token ids of an answer, how much of the prompt was known, and the rows that every stage computed of it."""
    before = prefilled(cluster)
    body = {"prompt": prompt, "max_tokens": ANSWER, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
    answer = cluster.post("/v1/completions", **body | fields)
    assert answer.status_code == 200, answer.text
    (rows,) = {after - before for after, before in zip(prefilled(cluster), before, strict=True)}
    usage = answer.json()["usage"]
    assert usage["prompt_tokens"] == len(prompt)
    return answer.json()["choices"][0]["token_ids"], usage["prompt_tokens_details"]["cached_tokens"], rows


def chat(cluster, *messages, **fields):
    body = {"messages": messages, "max_tokens": 8, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
    answer = cluster.post("/v1/chat/completions", **body | fields)
    assert answer.status_code == 200, answer.text
    return answer.json(), answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]


def chosen(reply):
    return reply["choices"][0]["token_ids"]


def say(role, content):
    return {"role": role, "content": content}


def settled(cluster, number="snapshot_bytes"):
    """A number of each stage, from the heartbeat after next."""
    time.sleep(1.1)
    return [stage[number] for stage in cluster.cluster()["stages"]]


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("dtype", "cuts"), [(mx.float32, (1, 3)), (mx.bfloat16, (2,))], ids=["float32", "bfloat16"])
def test_the_second_turn_prefills_only_what_is_new(tmp_path, dtype, cuts):
    directory = checkpoint_in(tmp_path, dtype)
    sampled = {"temperature": 0.8, "top_p": 0.9, "seed": 5}
    with running(directory, stages=2, arguments=["--snapshot-bytes", "0"]) as cluster:
        first, cached, rows = complete(cluster, PROMPT)
        assert (cached, rows) == (0, 3000)
        turn = [*PROMPT, *first, *range(40)]
        wanted, cached, rows = complete(cluster, turn)
        assert (cached, rows) == (0, len(turn))
        wanted_sampled, _, _ = complete(cluster, turn, **sampled)
        assert cluster.cluster()["prefixes"]["queries"] == 0
    for stages in cuts:
        with running(directory, stages=stages) as cluster:
            assert complete(cluster, PROMPT) == (first, 0, 3000)
            # a seed promises the same tokens: it begins where the bits are those of a fresh prefill
            answer, cached, rows = complete(cluster, turn, **sampled)
            assert (answer, cached, rows) == (wanted_sampled, 2048, len(turn) - 2048)
            # all but the last token of the answer had been fed; what came one by one was added in another order
            answer, cached, rows = complete(cluster, turn)
            assert (cached, rows) == (3000 + ANSWER - 1, 40 + 1)
            if dtype == mx.float32:
                assert answer == wanted
            counts = cluster.cluster()["prefixes"]
            assert (counts["queries"], counts["hits"], counts["tokens"]) == (3, 2, 2048 + 3000 + ANSWER - 1)
            # one stage alone runs ahead of its tokens and may have fed the one that ended the answer
            stopped, _, _ = complete(cluster, PROMPT[:500], ignore_eos=False, stop_token_ids=first[3:4] + turn[-9:-8])
            known = 500 + len(stopped)
            assert complete(cluster, [*PROMPT[:500], *stopped, 7, 8])[1] in (
                (known - 1, known) if stages == 1 else (known - 1,)
            )


@pytest.mark.timeout(120)
def test_conversations_share_what_they_have_in_common(tmp_path):
    directory = checkpoint_in(tmp_path, mx.bfloat16)
    system, one, other = say("system", SYSTEM), say("user", "One? " * 25), say("user", "Another? " * 25)
    conversations = [(system, one), (system, one), (system, other), (system, one, say("assistant", "Yes."), other)]

    def answers(cluster):
        return [chat(cluster, *each, seed=1) for each in conversations]

    with running(directory, stages=2, arguments=["--snapshot-bytes", "0"]) as cluster:
        replies, cached = zip(*answers(cluster), strict=True)
        assert cached == (0, 0, 0, 0)
        lengths = [len(reply["prompt_token_ids"]) for reply in replies]
    shared = len(SYSTEM) + len("<>system\n<>\n<>user\n") - 3  # bytes are tokens, and so are <|im_start|> and <|im_end|>
    with running(directory, stages=2) as cluster:
        found, (new, again, another, second) = zip(*answers(cluster), strict=True)
        assert [chosen(reply) for reply in found] == [chosen(reply) for reply in replies]
        assert new == 0
        invited = lengths[0] - len("<>assistant\n") + 1
        assert again == invited - invited % BLOCK
        assert another == shared - shared % BLOCK
        assert second == again
        with cluster.client.stream(
            "POST",
            f"{cluster.url}/v1/chat/completions",
            json={
                "messages": conversations[2],
                "max_tokens": 3,
                "stream": True,
                "stream_options": {"include_usage": True},
            },
        ) as response:
            last = [data for _, data in events(response) if data != "[DONE]"][-1]
        assert last["usage"]["prompt_tokens_details"]["cached_tokens"] == another + BLOCK * (
            (lengths[2] - another - 11) // BLOCK
        )
        metrics = cluster.get("/metrics").text
        counts = cluster.cluster()["prefixes"]
        assert f"stageline_prefix_hits_total {float(counts['hits'])}" in metrics
        assert f"stageline_prefix_tokens_total {float(counts['tokens'])}" in metrics
        assert counts["queries"] == counts["hits"] + 1 == 5


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return checkpoint_in(tmp_path_factory.mktemp("model"), mx.float32)


@pytest.mark.timeout(120)
def test_a_small_limit_is_kept_on_every_stage_and_a_lost_stage_loses_all(directory):
    prompts = [[(i * (k + 3)) % 250 for i in range(600)] for k in range(4)]
    with running(directory, stages=3) as cluster:
        wanted = [complete(cluster, prompt)[0] for prompt in prompts]
        each = [nbytes // 4 for nbytes in settled(cluster)]
        assert min(each) > 0
        assert cluster.cluster()["prefixes"]["snapshots"] == 4
    limit = 5 * max(each) // 2
    with running(directory, stages=3, arguments=["--snapshot-bytes", str(limit)]) as cluster:
        for prompt, answer in zip(prompts, wanted, strict=True):
            assert complete(cluster, prompt) == (answer, 0, 600)
        assert settled(cluster) == [2 * nbytes for nbytes in each]
        counts = cluster.cluster()["prefixes"]
        assert (counts["snapshots"], counts["evictions"]) == (2, 2)
        for k, cached in ((0, 0), (3, 600 + ANSWER - 1)):
            turn = [*prompts[k], *wanted[k], 1, 2]
            assert complete(cluster, turn)[1] == cached
        turn = [*prompts[3], *wanted[3], 1, 2]
        answer = complete(cluster, turn)[0]

        os.kill(cluster.pids()[1], signal.SIGKILL)
        time.sleep(0.2)
        cluster.wait_until_ready()
        assert settled(cluster) == [0, 0, 0]
        assert complete(cluster, turn) == (answer, 0, len(turn))
        assert complete(cluster, [*turn, *answer, 3])[1] == len(turn) + ANSWER - 1
        assert settled(cluster, "state_bytes") == [0, 0, 0]


@pytest.mark.timeout(120)
def test_a_directory_keeps_snapshots_over_a_restart(directory, tmp_path):
    arguments = ["--snapshot-dir", str(tmp_path / "kept")]
    prompts = [[(i * (k + 3)) % 250 for i in range(400)] for k in range(2)]
    with running(directory, stages=2, arguments=arguments) as cluster:
        answers = [complete(cluster, prompt)[0] for prompt in prompts]
        turns = [[*prompt, *answer, 1, 2] for prompt, answer in zip(prompts, answers, strict=True)]
        wanted = [complete(cluster, turn)[0] for turn in turns]
    files = sorted((tmp_path / "kept").rglob("*.safetensors"))
    assert len(files) == 2 * 4
    assert len({file.parent for file in files}) == 2
    firsts = [file for file in files if file.name.startswith("423-")]
    for file in firsts:  # what the second turns left would serve them again
        assert file.parent.name.startswith("layers-")
    for file in set(files) - set(firsts):
        file.unlink()
    damaged = firsts[-1]
    data = damaged.read_bytes()
    damaged.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))

    with running(directory, stages=2, arguments=arguments) as cluster:
        for file in firsts:  # what happens to files while it runs costs nobody anything
            if file.name != damaged.name:
                with file.open("r+b") as opened:
                    opened.seek(-40, os.SEEK_END)
                    opened.write(b"oops")
        found = [complete(cluster, turn) for turn in turns]
        assert [tokens for tokens, _, _ in found] == wanted
        assert sorted(cached for _, cached, _ in found) == [0, 423]
        assert f"{damaged.name} is damaged: its checksum is wrong; it is deleted" in cluster.log
        # nobody else may have the same files
        problem = "is in use by another cluster; name another directory"
        with pytest.raises(AssertionError, match=problem), running(directory, stages=2, arguments=arguments):
            pass
        assert [complete(cluster, turn)[0] for turn in turns] == wanted
    # the other stage's part was dropped, and both have been made again
    left = {file.name for file in (tmp_path / "kept").rglob("*.safetensors")}
    for name in left:
        assert len(list((tmp_path / "kept").rglob(name))) == 2

    other = checkpoint_in(tmp_path / "other", mx.bfloat16)
    with running(other, stages=2, arguments=arguments) as cluster:
        assert complete(cluster, turns[0])[1] == 0


def test_a_directory_that_cannot_be_used_is_named(directory, tmp_path):
    (tmp_path / "file").write_text("")
    arguments = ["--snapshot-dir", str(tmp_path / "file")]
    problem = r"snapshot_dir: cannot use .*file/.*: Not a directory; make it writable"
    with pytest.raises(AssertionError, match=problem), running(directory, stages=2, arguments=arguments):
        pass
