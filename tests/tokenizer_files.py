"""Small tokenizers as checkpoints have them: tokenizer.json, tokenizer_config.json, perhaps chat_template.jinja.

(A module called `tokenizers` in this directory would hide the library.)
"""

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

# ids 0 to 255 of every tokenizer here are the bytes
BOS, EOS, IM_START, IM_END, THINK = range(256, 261)
SPECIAL = {"<s>": BOS, "</s>": EOS, "<|im_start|>": IM_START, "<|im_end|>": IM_END}

CHAT_TEMPLATE = """\
{%- if messages[0].role == "assistant" %}{{ raise_exception("a chat cannot begin with the assistant") }}{% endif %}
{%- if tools %}<|im_start|>tools
{{ tools | tojson }}<|im_end|>
{% endif %}
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{{ message.content }}
{%- for call in message.tool_calls or [] %}
{%- for name, value in call.function.arguments.items() %}[{{ name }}={{ value }}]{% endfor %}
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}<no_think>{% endif %}
{%- if reasoning_effort is defined %}<effort {{ reasoning_effort }}>{% endif %}{% endif %}"""


def byte_alphabet() -> dict[int, str]:
    """The character by which byte-level tokenizers write each byte."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def byte_level(merges: tuple[tuple[bytes, bytes], ...] = ()) -> Tokenizer:
    """256 bytes, four special tokens, one plain added token `<think>`, then one token per merge."""
    letters = byte_alphabet()

    def write(text: bytes) -> str:
        return "".join(letters[byte] for byte in text)

    vocab = {letters[byte]: byte for byte in range(256)} | SPECIAL | {"<think>": THINK}
    for left, right in merges:
        vocab[write(left + right)] = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[(write(left), write(right)) for left, right in merges]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    tokenizer.add_tokens([AddedToken("<think>")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    return tokenizer


def byte_level_with_merges() -> Tokenizer:
    """Tokens of several bytes, some of them parts of characters, some across the border of two."""
    return byte_level(
        (
            (b"\xf0", b"\x9f"),
            (b"\x98", b"\x80"),
            (b"\xf0\x9f", b"\x98\x80"),
            (b"\xe2", b"\x82"),
            (b"\xac", b"\xe2"),
            (b"\xc3", b"\xa9"),
            (b"a", b"\xc3"),
            (b"t", b"h"),
            (b"th", b"e"),
            (b" ", b"the"),
        )
    )


def byte_fallback() -> Tokenizer:
    """In the manner of sentencepiece: words with a mark for the space before, other bytes as `<0xNN>`."""
    vocab = {f"<0x{byte:02X}>": byte for byte in range(256)} | SPECIAL | {"<think>": THINK}
    for piece in ("\u2581the", "\u2581", "a", "\u00e9"):
        vocab[piece] = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<s>"))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    return tokenizer


def save(
    tokenizer: Tokenizer, directory: Path, *, template: str | None = CHAT_TEMPLATE, own_file: bool = False
) -> Path:
    """Writes the files of a checkpoint; `own_file` puts the chat template into chat_template.jinja."""
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    if template is not None and own_file:
        (directory / "chat_template.jinja").write_text(template, encoding="utf-8")
    elif template is not None:
        config["chat_template"] = template
    (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return directory
