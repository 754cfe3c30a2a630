"""A coordinator as seen from another process: streamed answers and the state of the cluster, over HTTP."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from types import TracebackType
from typing import Annotated, Any, Literal, Self, TypeVar

import httpx
import msgspec

from coordinator.config import is_presentable
from coordinator.server_events import server_events
from coordinator.view import ClusterView
from worker.errors import ClusterError, ConfigError, StagelineError, UserError

# a long prompt may take minutes before its first token
TIMEOUT = httpx.Timeout(10.0, read=600.0)


class ChatMessage(msgspec.Struct, frozen=True):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class Options(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How to answer; None leaves it to the coordinator."""

    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None  # of a chat
    text: str = ""  # of a completion


class _Piece(msgspec.Struct):
    choices: list[_Choice]


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: Annotated[list[_Model], msgspec.Meta(min_length=1)]


class _Problem(msgspec.Struct):
    message: str


class _Failure(msgspec.Struct):
    error: _Problem


Schema = TypeVar("Schema")


def authorization(api_key: str | None) -> dict[str, str]:
    """The header that presents a key, none without one. Raises ConfigError, without the key, if no header can."""
    if not api_key:
        return {}
    if not is_presentable(api_key):
        raise ConfigError(
            "--api-key (or STAGELINE_API_KEY): a key is printable ASCII without spaces at its ends, since it is sent "
            "in an HTTP header, and this one is not: give the key that the server was started with",
            param="api_key",
        )
    return {"Authorization": f"Bearer {api_key}"}


def http_address(url: str, *, param: str) -> str:
    """`url` without a slash at its end. Raises ConfigError, naming the option, if it is no HTTP server's address."""
    try:
        parsed = httpx.URL(url.rstrip("/"))
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise httpx.InvalidURL("expected http://HOST:PORT")
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ConfigError(f"--{param} {url!r}: {error}", param=param) from error
    return url.rstrip("/")


class Client:
    """Talks to the coordinator at `url`; a context manager.

    Every method raises UserError for the user's mistake and ClusterError if the coordinator cannot be reached or fails.
    """

    def __init__(self, url: str, api_key: str | None = None) -> None:
        """Raises ConfigError if `url` is not the address of an HTTP server, or no header can carry the key."""
        headers = authorization(api_key)
        self._url = http_address(url, param="url")
        # a transport of its own: a coordinator on this machine is never behind the proxy of the environment
        self._http = httpx.Client(base_url=self._url, headers=headers, timeout=TIMEOUT, transport=httpx.HTTPTransport())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def cluster(self) -> ClusterView:
        """The state of the cluster."""
        return self._get("/cluster", ClusterView)

    def model(self) -> str:
        """The name of the model that is served."""
        return self._get("/v1/models", _Models).data[0].id

    def chat(self, model: str, messages: Sequence[ChatMessage], options: Options) -> Generator[str]:
        """The answer to a conversation, in pieces of text as they arrive; closing the iterator cancels the request."""
        body = {"model": model, "messages": messages, "stream": True}
        for choice in self._stream("/v1/chat/completions", body, options):
            if choice.delta is not None and choice.delta.content:
                yield choice.delta.content

    def complete(self, model: str, prompt: str, options: Options) -> Generator[str]:
        """What follows `prompt`, without a chat template, in pieces of text; closing the iterator cancels it."""
        body = {"model": model, "prompt": prompt, "stream": True}
        for choice in self._stream("/v1/completions", body, options):
            if choice.text:
                yield choice.text

    def _get(self, path: str, schema: type[Schema]) -> Schema:
        with self._explained():
            response = self._http.get(path)
        if response.status_code != HTTPStatus.OK:
            raise self._refusal(response)
        return self._decode(response.content, schema)

    def _stream(self, path: str, body: Mapping[str, Any], options: Options) -> Generator[_Choice]:
        content = msgspec.json.encode({**body, **msgspec.to_builtins(options)})
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        with self._explained(), self._http.stream("POST", path, content=content, headers=headers) as response:
            if response.status_code != HTTPStatus.OK:
                response.read()
                raise self._refusal(response)
            for event in server_events(response.iter_bytes()):
                if event.event == "error":
                    raise ClusterError(self._decode(event.data, _Failure).error.message)
                if event.data == "[DONE]":
                    return
                yield from self._decode(event.data, _Piece).choices
        raise ClusterError(f"the answer of {self._url} broke off: the coordinator closed the stream before its end")

    def _decode(self, content: bytes | str, schema: type[Schema]) -> Schema:
        try:
            return msgspec.json.decode(content, type=schema)
        except msgspec.MsgspecError as error:
            raise ClusterError(f"{self._url} does not answer like a Stageline coordinator: {error}") from error

    @contextmanager
    def _explained(self) -> Generator[None]:
        """Turns the failures of the connection into ours."""
        try:
            yield
        except httpx.ConnectError as error:
            raise ClusterError(
                f"no coordinator answers at {self._url} ({error}): start one with `stageline up`, or name the address "
                "of a running one with --url"
            ) from error
        except httpx.TimeoutException as error:
            raise ClusterError(f"the coordinator at {self._url} does not answer; is it overloaded?") from error
        except httpx.TransportError as error:
            raise ClusterError(f"the connection to {self._url} broke: {error or type(error).__name__}") from error

    def _refusal(self, response: httpx.Response) -> StagelineError:
        """The error that a response with a bad status stands for; its body should be in OpenAI's shape."""
        status = response.status_code
        try:
            message = msgspec.json.decode(response.content, type=_Failure).error.message
        except msgspec.MsgspecError:
            message = (
                f"{response.request.url} answered HTTP status {status}, which is not a Stageline coordinator's way"
            )
        if status == HTTPStatus.UNAUTHORIZED:
            message += " (pass --api-key or set STAGELINE_API_KEY)"
        users = 400 <= status < 500 and status != HTTPStatus.TOO_MANY_REQUESTS
        return UserError(message) if users else ClusterError(message)
