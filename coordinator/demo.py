"""Models that are made and not downloaded, in the user's cache: `demo`, which `stageline up` serves when no model is
named, and `bench`, which `stageline bench` measures.

The tokenizer is written here; config and weights are made by `python -m worker.demo` in a process of its own, so that
the coordinator needs no MLX. Text is bytes: byte b is token b, so any UTF-8 text survives encode and decode.
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import platformdirs
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from worker.errors import ClusterError, ConfigError

NAME = "stageline-demo"  # of the model `demo` in the API
VERSION = "2"  # of the cached files: raise it whenever what is written changes
SIZES = "sizes.json"  # name and bytes of every other file, written last

END_OF_TEXT, MESSAGE_START, MESSAGE_END = 256, 257, 258
VOCAB_SIZE = 272
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    *(f"<|reserved_{token}|>" for token in range(MESSAGE_END + 1, VOCAB_SIZE)),
)

CHAT_TEMPLATE = """\
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def demo_model(cache: Path | None = None) -> Path:
    """The directory of the model `demo`, as `made_model` gives it."""
    return made_model("demo", cache)


def made_model(preset: str, cache: Path | None = None) -> Path:
    """The directory of the model `preset`, made on first use in `cache` (the user's cache directory if None).

    Safe when several processes start at once: one makes it, the others wait. A directory with a missing or truncated
    file is made again. Raises ConfigError if the cache cannot be written, ClusterError if the weights cannot be made.
    """
    parent = (cache or platformdirs.user_cache_path("stageline")) / f"stageline-{preset}"
    directory = parent / VERSION
    try:
        if _is_complete(directory):
            return directory
        parent.mkdir(parents=True, exist_ok=True)
        with _alone(parent):
            if not _is_complete(directory):
                _make(preset, parent, directory)
    except OSError as error:
        raise ConfigError(
            f"cannot write the {preset} model to {parent}: {error.strerror}; make room or make it writable, or name "
            "another cache directory (XDG_CACHE_HOME on Linux), or name a model"
        ) from error
    return directory


def write_tokenizer(directory: Path) -> None:
    """Writes tokenizer.json, tokenizer_config.json and chat_template.jinja, as transformers reads them."""
    _tokenizer().save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": SPECIAL_TOKENS[MESSAGE_END - END_OF_TEXT],
        "pad_token": SPECIAL_TOKENS[0],
        "model_max_length": 1 << 20,
        "clean_up_tokenization_spaces": False,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(vocab=_byte_vocabulary(), merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(text, special=True, normalized=False) for text in SPECIAL_TOKENS]
    tokenizer.add_special_tokens(special)  # pyright: ignore[reportUnknownMemberType]
    return tokenizer


def _byte_vocabulary() -> dict[str, int]:
    """The character that the byte-level scheme of GPT-2 writes for each byte: itself if printable, else 256 and up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + rank): byte for rank, byte in enumerate(others)}


@contextmanager
def _alone(parent: Path) -> Generator[None]:
    """Holds the lock of this cache; the system gives it back when the process ends, however it ends."""
    with (parent / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make(preset: str, parent: Path, directory: Path) -> None:
    """Writes everything beside `directory` and renames it into place; the caller holds the lock."""
    for abandoned in parent.glob("making-*"):
        shutil.rmtree(abandoned)
    making = Path(tempfile.mkdtemp(prefix="making-", dir=parent))
    try:
        write_tokenizer(making)
        _make_weights(preset, making)
        sizes = {file.name: file.stat().st_size for file in sorted(making.iterdir())}
        (making / SIZES).write_bytes(msgspec.json.encode(sizes))
        if directory.exists():
            shutil.rmtree(directory)
        making.rename(directory)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _make_weights(preset: str, directory: Path) -> None:
    # -P: a folder named `worker` in the current directory must not be taken for ours
    command = [sys.executable, "-P", "-m", "worker.demo", preset, str(directory), "--leave-with-parent"]
    # nobody writes to its standard input, which ends when this process does, however that happens
    ending, held = os.pipe()
    try:
        done = subprocess.run(command, stdin=ending, capture_output=True, text=True, errors="replace")
    finally:
        os.close(ending)
        os.close(held)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise ClusterError(
            f"cannot make the {preset} model's weights: `{' '.join(command)}` ended with status {done.returncode}"
            + (f": {said[-1]}" if said else "")
        )


def _is_complete(directory: Path) -> bool:
    try:
        sizes = msgspec.json.decode((directory / SIZES).read_bytes(), type=dict[str, int])
        return all((directory / name).stat().st_size == size for name, size in sizes.items())
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return False
