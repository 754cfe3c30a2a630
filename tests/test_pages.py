"""What the pages tell people to type exists."""

import re
import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import click
import pytest

from coordinator.cli import root
from worker.bench import main as measuring

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    page for folder in ("docs", "kernels", "deploy") for page in (ROOT / folder).rglob("*.md")
)
OF_OTHERS = {"--over", "--sort", "--help"}  # mlx.distributed_config, ps, click's own


def codes(text: str) -> Iterator[str]:
    """Lines of blocks of code, and code within text."""
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield from block.replace("\\\n", " ").splitlines()
    yield from (" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", text))


def named(words: list[str]) -> click.Command:
    """The command that these words after `stageline` name."""
    command: click.Command = root
    for word in words:
        if not isinstance(command, click.Group) or word.startswith("-"):
            break
        child = command.get_command(click.Context(command), word)
        assert child is not None, f"no command {word!r} in {shlex.join(words)}"
        command = child
    return command


def all_options(command: click.Command) -> set[str]:
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    if isinstance(command, click.Group):
        context = click.Context(command)
        children = [command.get_command(context, name) for name in command.list_commands(context)]
        options.update(*(all_options(child) for child in children if child is not None))
    return options


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_options_exist(page: Path) -> None:
    everywhere = all_options(root) | all_options(measuring) | OF_OTHERS
    for code in codes(page.read_text(encoding="utf-8")):
        line = re.sub(r"^(\$ |sudo |\w+=\S+ )*", "", code.strip())
        if re.match(r"stageline( |$)", line):
            words = shlex.split(re.split(r" [|>&]|\s#", line)[0])[1:]
            options = all_options(named(words)) | {"--help", "--version", "--"}
            assert not {word.partition("=")[0] for word in words if word.startswith("-")} - options, code
        elif re.match(r"--[a-z]", line):
            assert line.split()[0].partition("=")[0] in everywhere, code
        elif re.match(r"python -m (worker|coordinator)", line):
            assert find_spec(line.split()[2]) is not None, code


def test_the_search_finds_them() -> None:
    text = "Run `stageline up\n--port 1`, or:\n\n```sh\nstageline \\\n  status --watch  # a word\n```\n"
    assert list(codes(text)) == ["stageline    status --watch  # a word", "stageline up --port 1"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_exist(page: Path) -> None:
    folders = "coordinator|worker|kernels|tests|scripts|deploy|configs|docs"
    named = re.findall(rf"(?<![\w/.])(?:{folders})/[\w./-]+\.\w+", page.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).exists()] == []
