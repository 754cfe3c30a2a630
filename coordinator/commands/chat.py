"""`stageline chat`: a conversation in the terminal, or with the lines of standard input."""

import importlib
import sys
from contextlib import closing, suppress

import click

from coordinator.client import ChatMessage, Client, Options
from coordinator.commands import options
from coordinator.commands.output import end_line, write
from worker.errors import StagelineError, UserError


@click.command()
@options.answer
@options.coordinator_address
def chat(max_tokens: int | None, temperature: float | None, seed: int | None, url: str, api_key: str | None) -> None:
    """Talk with the model.

    Each line is one turn. /exit or Ctrl-D leaves, Ctrl-C interrupts an answer.
    """
    choices = Options(max_tokens=max_tokens, temperature=temperature, seed=seed)
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    if interactive:
        with suppress(ImportError):  # not every Python has it
            importlib.import_module("readline")  # gives input() its line editing

    history: list[ChatMessage] = []
    with Client(url, api_key) as client:
        model = client.model()
        if interactive:
            click.echo(f"{model}: /exit or Ctrl-D to leave, Ctrl-C to interrupt an answer", err=True)
        while (line := _next_line(interactive)) is not None:
            question = ChatMessage("user", line)
            try:
                answer = _answer(client, model, [*history, question], choices)
            except StagelineError as error:
                if not interactive:
                    raise
                click.echo(f"stageline: error: {error.message}", err=True)
                continue
            if answer:
                history += [question, ChatMessage("assistant", answer)]


def _next_line(interactive: bool) -> str | None:
    """The next line with something in it, or None at the end."""
    while True:
        try:
            line = input("> " if interactive else "").strip()
            line.encode()  # in some locales what is not UTF-8 arrives as lone surrogates
        except EOFError:
            if interactive:
                write("\n")
            return None
        except UnicodeError as error:
            raise UserError(f"standard input is not UTF-8: {error}") from error
        except KeyboardInterrupt:
            if not interactive:
                raise
            write("\n")  # a half-typed line is dropped
            continue
        if line == "/exit":
            return None
        if line:
            return line


def _answer(client: Client, model: str, messages: list[ChatMessage], choices: Options) -> str:
    """Streams an answer and returns its text: what there is of it when Ctrl-C ends it."""
    text = ""
    try:
        with closing(client.chat(model, messages, choices)) as pieces:
            for piece in pieces:
                text += piece
                write(piece)
    except KeyboardInterrupt:
        pass
    finally:
        end_line(text)
    return text
