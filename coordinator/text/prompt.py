"""Text to token ids: the checkpoint's own tokenizer and chat template."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders

from coordinator.text.detokenize import Detokenizer
from worker.checkpoint.fields import read_json, refuse_irregular
from worker.errors import CheckpointError, UserError

Messages = Sequence[Mapping[str, Any]]

# beside tokenizer.json, as transformers looks for them
_BESIDE = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_TEMPLATE = "chat_template.jinja"

# what `apply_chat_template` would take for itself instead of passing it to the template
_RESERVED = frozenset(
    {
        "add_generation_prompt",
        "chat_template",
        "continue_final_message",
        "conversation",
        "conversations",
        "documents",
        "max_length",
        "messages",
        "padding",
        "return_assistant_tokens_mask",
        "return_dict",
        "return_tensors",
        "sanitize_control_tokens",
        "tokenize",
        "tokenizer_kwargs",
        "tools",
        "truncation",
    }
)


class PromptCodec:
    """The tokenizer and the chat template of one checkpoint. Safe to use from several threads."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._backend: Tokenizer = tokenizer.backend_tokenizer
        # a tokenizer file may carry settings of its training; a prompt is neither cut nor filled up
        self._backend.no_truncation()
        self._backend.no_padding()
        added = self._backend.get_added_tokens_decoder()
        self._special = frozenset(id for id, token in added.items() if token.special)
        self._longest = _longest_token(self._backend)
        self.template_problem = self._compile_template()

    @classmethod
    def load(cls, directory: Path) -> "PromptCodec":
        """Reads `tokenizer.json` and what lies beside it. Raises CheckpointError if it is missing or broken."""
        path = directory / "tokenizer.json"
        for name in (path.name, *_BESIDE, _TEMPLATE):
            refuse_irregular(directory / name)
        if not path.exists():
            raise CheckpointError(
                f"{path} is missing; copy tokenizer.json and tokenizer_config.json of the model there"
            )
        for name in _BESIDE:  # transformers does not say which file is broken
            if (directory / name).exists():
                read_json(directory / name)
        # transformers takes most of a second to import and then advises everybody to install torch
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
        # not AutoTokenizer: that one reads config.json too, and refuses configs that mlx-lm writes
        from transformers import PreTrainedTokenizerFast

        try:
            loader: Any = PreTrainedTokenizerFast
            return cls(loader.from_pretrained(directory, local_files_only=True))
        except Exception as error:  # the tokenizers library raises plain Exception for a broken file
            raise CheckpointError(f"cannot load the tokenizer {path}: {error}") from error

    @property
    def end_token(self) -> int | None:
        """The tokenizer's end-of-sequence id."""
        return self._tokenizer.eos_token_id

    @property
    def has_chat_template(self) -> bool:
        """Whether the checkpoint can be talked to in messages."""
        return bool(self._tokenizer.chat_template)

    def render(
        self,
        messages: Messages,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt as the checkpoint's template writes it, byte for byte as transformers renders it.

        Raises UserError if there is no template, if a variable's name is taken, or with the template's own words.
        """
        if not self.has_chat_template:
            raise UserError("this model has no chat template; send a plain prompt to /v1/completions", param="messages")
        if self.template_problem:
            raise UserError(
                f"this model's chat template is broken ({self.template_problem}); send a plain prompt to "
                "/v1/completions",
                param="messages",
            )
        variables = variables or {}
        if taken := sorted(_RESERVED & variables.keys()):
            raise UserError(f"chat_template_kwargs cannot set {', '.join(taken)}", param="chat_template_kwargs")
        try:
            return self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tools=list(tools) if tools else None,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                tokenize=False,
                **variables,
            )
        except Exception as error:  # a template is a program that came with the checkpoint
            # what it says itself is of the base class
            words = f"refuses these messages: {error}" if _is_own_words(error) else f"fails on these: {error!r}"
            raise UserError(f"the chat template {words}", param="messages") from error

    def least_tokens(self, text: str) -> int:
        """A lower bound of the tokens of `text`, found without tokenising it; 0 where the tokenizer allows none."""
        return -(-len(text.encode()) // self._longest) if self._longest else 0

    def encode(self, text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        """The token ids of `text`, with the special tokens the tokenizer puts around a text if asked."""
        return self.encode_marked(text, (), add_special_tokens=add_special_tokens)[0]

    def encode_marked(
        self, text: str, places: Sequence[int], *, add_special_tokens: bool
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The token ids of `text`, and how many of them lie before each of the ascending `places` in it."""
        # the batch call is the one that lets other threads run
        encoding = self._backend.encode_batch([text], add_special_tokens=add_special_tokens)[0]
        marks: list[int] = []
        if places:
            ends = [end for _, end in encoding.offsets]
            for place in places:
                start = marks[-1] if marks else 0
                marks.append(next((index for index in range(start, len(ends)) if ends[index] > place), len(ends)))
        return tuple(encoding.ids), tuple(marks)

    def _compile_template(self) -> str | None:
        """Why the template cannot be compiled; it is not run."""
        if not self.has_chat_template:
            return None
        from jinja2 import TemplateSyntaxError
        from transformers.utils import chat_template_utils

        library: Any = chat_template_utils
        try:
            library.render_jinja_template(conversations=[], chat_template=self._tokenizer.get_chat_template())
        except TemplateSyntaxError as error:
            return f"line {error.lineno}: {error.message}"
        except Exception as error:
            return str(error)
        return None

    def detokenizer(self) -> Detokenizer:
        """A new one for one sequence."""
        return Detokenizer(self._backend, self._special)


def _longest_token(backend: Tokenizer) -> int | None:
    """Bytes of text that one token can stand for, or None if that has no limit that is easily seen.

    A byte-level tokenizer writes each byte as one character, and loses none unless it normalises or strips.
    """
    added = backend.get_added_tokens_decoder().values()
    strips = any(token.lstrip or token.rstrip for token in added)
    if not isinstance(backend.decoder, decoders.ByteLevel) or backend.normalizer is not None or strips:
        return None
    return max(
        *(len(token) for token in backend.get_vocab(with_added_tokens=False)),
        *(len(token.content.encode()) for token in added),
        1,
    )


def _is_own_words(error: Exception) -> bool:
    """Whether the template raised this with `raise_exception`."""
    from jinja2 import TemplateError

    return type(error) is TemplateError
