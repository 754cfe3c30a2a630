"""`stageline generate`: one prompt, one streamed answer."""

import sys
from contextlib import closing

import click

from coordinator.client import ChatMessage, Client, Options
from coordinator.commands import options
from coordinator.commands.output import end_line, write
from worker.errors import UserError


@click.command()
@click.option("-p", "--prompt", required=True, metavar="TEXT", help="The prompt; - reads it from standard input.")
@click.option("--raw", is_flag=True, help="Continue the prompt as it is, without the chat template.")
@options.answer
@options.coordinator_address
def generate(
    prompt: str,
    raw: bool,
    max_tokens: int | None,
    temperature: float | None,
    seed: int | None,
    url: str,
    api_key: str | None,
) -> None:
    """Answer one prompt, streamed to stdout."""
    text = _read(prompt)
    choices = Options(max_tokens=max_tokens, temperature=temperature, seed=seed)
    with Client(url, api_key) as client:
        model = client.model()
        if raw:
            pieces = client.complete(model, text, choices)
        else:
            pieces = client.chat(model, [ChatMessage("user", text)], choices)
        piece = ""
        with closing(pieces):
            try:
                for piece in pieces:
                    write(piece)
            finally:
                end_line(piece)


def _read(prompt: str) -> str:
    try:
        if prompt == "-":
            return sys.stdin.buffer.read().decode()
        prompt.encode()  # an argument that is not UTF-8 arrives with lone surrogates
    except UnicodeError as error:
        raise UserError(f"the prompt is not UTF-8: {error}") from error
    return prompt
