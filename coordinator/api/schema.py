"""OpenAI's wire format: what requests may hold, and the shapes of responses.

A request field that is None was not given. Fields marked (vLLM) are extensions that vLLM has under the same name.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from worker.protocol import FinishReason

Positive = Annotated[int, Meta(ge=1, le=2**31 - 1)]
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]

MAX_STOPS = 16


class StreamOptions(msgspec.Struct, frozen=True):
    """How to stream."""

    include_usage: bool | None = None


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What chat and completion requests have in common."""

    model: str | None = None
    max_tokens: Positive | None = None
    temperature: Annotated[float, Meta(ge=0)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # (vLLM)
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0)] | None = None
    ignore_eos: bool | None = None
    stop_token_ids: list[TokenId] | None = None
    return_token_ids: bool | None = None
    add_special_tokens: bool | None = None


class ContentPart(msgspec.Struct, frozen=True):
    """A part of a message's content."""

    type: str
    text: str | None = None


class ToolCall(msgspec.Struct, frozen=True):
    """What is checked of a tool call in an earlier message."""

    function: dict[str, Any]


class ChatMessage(msgspec.Struct, frozen=True):
    """What is checked of a message; the chat template sees its other fields too."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    tool_calls: list[ToolCall] | None = None


class ChatBody(Settings, frozen=True, kw_only=True):
    """Body of POST /v1/chat/completions."""

    messages: Annotated[list[dict[str, Any]], Meta(min_length=1)]
    max_completion_tokens: Positive | None = None
    reasoning_effort: str | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    # (vLLM)
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None


class CompletionBody(Settings, frozen=True, kw_only=True):
    """Body of POST /v1/completions."""

    prompt: str | list[Any]


# fields that change an answer and that we cannot honour, with the values that change nothing
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "allowed_token_ids": (),
    "audio": (),
    "bad_words": ([],),
    "best_of": (1,),
    "chat_template": (),
    "documents": ([],),
    "echo": (False,),
    "function_call": ("none",),
    "functions": ([],),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "include_stop_str_in_output": (False,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "min_tokens": (0,),
    "modalities": (["text"],),
    "n": (1,),
    "prompt_embeds": (),
    "prompt_logprobs": (),
    "response_format": ({"type": "text"},),
    "skip_special_tokens": (True,),
    "structured_outputs": (),
    "suffix": ("",),
    "thinking_token_budget": (-1,),
    "top_logprobs": (0,),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
    "web_search_options": (),
}


# --- responses -----------------------------------------------------------------------------------------------------


class PromptDetails(msgspec.Struct, frozen=True):
    """Of a prompt's tokens, those that were known from an earlier request."""

    cached_tokens: int


class Usage(msgspec.Struct, frozen=True):
    """Tokens of a request; a stop token counts as generated."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class AssistantMessage(msgspec.Struct, frozen=True):
    """The answer of a chat."""

    content: str
    role: Literal["assistant"] = "assistant"


class MessageDelta(msgspec.Struct, frozen=True, omit_defaults=True):
    """A piece of the answer of a chat."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET


class ChatChoice(msgspec.Struct, frozen=True, kw_only=True):
    """The one answer of a chat."""

    index: int = 0
    message: AssistantMessage
    logprobs: None = None
    finish_reason: FinishReason
    token_ids: tuple[int, ...] | UnsetType = UNSET
    prompt_token_ids: tuple[int, ...] | UnsetType = UNSET


class ChatChunkChoice(msgspec.Struct, frozen=True, kw_only=True):
    """A step of the one answer of a chat."""

    index: int = 0
    delta: MessageDelta
    logprobs: None = None
    finish_reason: FinishReason | None = None
    token_ids: tuple[int, ...] | UnsetType = UNSET
    prompt_token_ids: tuple[int, ...] | UnsetType = UNSET


class TextChoice(msgspec.Struct, frozen=True, kw_only=True):
    """The one answer of a completion, or a step of it."""

    index: int = 0
    text: str
    logprobs: None = None
    finish_reason: FinishReason | None = None
    token_ids: tuple[int, ...] | UnsetType = UNSET
    prompt_token_ids: tuple[int, ...] | UnsetType = UNSET


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """A response or a chunk of a streamed one.

    vLLM has `prompt_token_ids` in the choice of a completion, and beside the choices of a chat; there we have both.
    """

    id: str
    object: Literal["chat.completion", "chat.completion.chunk", "text_completion"]
    created: int
    model: str
    choices: tuple[ChatChoice | ChatChunkChoice | TextChoice, ...]
    usage: Usage | UnsetType | None = UNSET
    prompt_token_ids: tuple[int, ...] | UnsetType = UNSET
