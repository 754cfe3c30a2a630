"""Text to token ids: the checkpoint's own tokenizer and chat template."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from coordinator.detokenize import Detokenizer
from worker.errors import CheckpointError, UserError

Messages = Sequence[Mapping[str, Any]]

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

    @classmethod
    def load(cls, directory: Path) -> "PromptCodec":
        """Reads `tokenizer.json` and what lies beside it. Raises CheckpointError if it is missing or broken."""
        path = directory / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(
                f"{path} is missing; copy tokenizer.json and tokenizer_config.json of the model there"
            )
        # transformers takes most of a second to import and then advises everybody to install torch
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
        # not AutoTokenizer: that one reads config.json too, and refuses configs that mlx-lm writes
        from transformers import PreTrainedTokenizerFast

        try:
            loader: Any = PreTrainedTokenizerFast
            return cls(loader.from_pretrained(directory, local_files_only=True))
        except Exception as error:  # the tokenizers library raises plain Exception for a broken file
            raise CheckpointError(f"cannot load the tokenizer in {directory}: {error}") from error

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
            raise UserError(f"the chat template refuses these messages: {error}", param="messages") from error

    def encode(self, text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        """The token ids of `text`, with the special tokens the tokenizer puts around a text if asked."""
        # the batch call is the one that lets other threads run
        return tuple(self._backend.encode_batch([text], add_special_tokens=add_special_tokens)[0].ids)

    def detokenizer(self) -> Detokenizer:
        """A new one for one sequence."""
        return Detokenizer(self._backend, self._special)
