import io
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import SimpleNamespace

import click
import msgspec
import pytest
from rich.console import Console

from coordinator.cli import COMMANDS, root, run
from coordinator.commands.status import table
from coordinator.view import ClusterView
from tests.coordinator.scripted import Answer, as_error, as_events, chat_answer, chat_piece, serving, view

CHAT = "POST /v1/chat/completions"
COMPLETE = "POST /v1/completions"
CLUSTER = "GET /cluster"


def as_view(cluster: ClusterView) -> Answer:
    return Answer([msgspec.json.encode(cluster)])


def stageline(arguments: Sequence[str], **options: object) -> subprocess.Popen[str]:
    # where SIGINT is ignored, as in a shell's background job, Python would not raise KeyboardInterrupt
    start = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    return subprocess.Popen(
        [sys.executable, "-c", start + "from coordinator.cli import main; main()", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,  # type: ignore[call-overload]
    )


@pytest.mark.parametrize("arguments", [[], *([name] for name in COMMANDS)], ids=lambda names: names[0] if names else "")
def test_help_is_cheap(arguments: list[str]) -> None:
    code = (
        "import sys; from coordinator.cli import run; status = run([*sys.argv[1:], '--help']);"
        "print(sorted({'mlx', 'transformers', 'mlx_lm', 'openai'} & set(sys.modules))); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert "Usage: stageline" in done.stdout
    assert done.stdout.endswith("\n[]\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_table_says_what_the_command_says(name: str) -> None:
    command = root.get_command(click.Context(root), name)
    assert command is not None
    assert (command.help or "").splitlines()[0] == COMMANDS[name].help


def test_version(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda package: f"of {package}")
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == "stageline of stageline\n"


@pytest.mark.parametrize(
    "arguments",
    [["nothing"], ["generate"], ["generate", "-p", "x", "--seed", "y"], ["status", "--no-such"], ["chat", "extra"]],
    ids=" ".join,
)
def test_wrong_usage_is_the_users_mistake(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    printed = capsys.readouterr()
    assert "Error: " in printed.err
    assert printed.out == ""


@pytest.mark.parametrize("command", [["generate", "-p", "x"], ["chat"], ["status"]], ids=lambda words: words[0])
@pytest.mark.parametrize(
    ("url", "status", "message"),
    [("http://127.0.0.1:9", 1, "start one with `stageline up`"), ("127.0.0.1:8000", 2, "--url '127.0.0.1:8000'")],
    ids=["refused", "malformed"],
)
def test_no_coordinator(
    command: list[str], url: str, status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*command, "--url", url]) == status
    printed = capsys.readouterr()
    assert printed.err.startswith("stageline: error: ")
    assert printed.err.count("\n") == 1
    assert message in printed.err
    assert printed.out == ""


def test_generate_streams_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    with serving({CHAT: chat_answer("one", " two")}) as server:
        assert run(["generate", "-p", "hi", "--max-tokens", "3", "--seed", "7", "--url", server.url]) == 0
    assert capsys.readouterr().out == "one two\n"
    message = {"role": "user", "content": "hi"}
    assert server.bodies == [{"model": "tiny", "messages": [message], "stream": True, "max_tokens": 3, "seed": 7}]


def test_generate_raw_continues_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    answer = as_events('data: {"choices": [{"text": "and\\n"}]}', "data: [DONE]")
    with serving({COMPLETE: answer}) as server:
        assert run(["generate", "--raw", "-p", "hi", "--url", server.url]) == 0
    assert capsys.readouterr().out == "and\n"
    assert server.bodies[0]["prompt"] == "hi"


def test_generate_reads_the_prompt_from_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO("héé\n".encode())))
    with serving({CHAT: chat_answer()}) as server:
        assert run(["generate", "-p", "-", "--url", server.url]) == 0
    assert server.bodies[0]["messages"][0]["content"] == "héé\n"


@pytest.mark.parametrize("prompt", ["-", "\udcff"], ids=["stdin", "argument"])
def test_prompt_that_is_not_utf8(
    prompt: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"a\xff")))
    assert run(["generate", "-p", prompt]) == 2
    assert capsys.readouterr().err.startswith("stageline: error: the prompt is not UTF-8: ")


def test_generate_failure_in_the_middle(capsys: pytest.CaptureFixture[str]) -> None:
    failure = 'event: error\ndata: {"error": {"message": "stage 1 died"}}'
    with serving({CHAT: as_events(chat_piece("so far"), failure)}) as server:
        assert run(["generate", "-p", "hi", "--url", server.url]) == 1
    assert capsys.readouterr() == ("so far\n", "stageline: error: stage 1 died\n")


def test_terminal_is_safe_from_control_characters(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving({CHAT: chat_answer("\x1b[31mred\x9b\tand\x7f\n")}) as server:
        assert run(["generate", "-p", "hi", "--url", server.url]) == 0
        assert capsys.readouterr().out == "\x1b[31mred\x9b\tand\x7f\n"
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        assert run(["generate", "-p", "hi", "--url", server.url]) == 0
        assert capsys.readouterr().out == "\ufffd[31mred\ufffd\tand\ufffd\n"


def test_generate_into_a_closed_pipe_is_quiet() -> None:
    with serving({CHAT: chat_answer(*["many "] * 20_000)}) as server:
        process = stageline(["generate", "-p", "hi", "--url", server.url])
        assert process.stdout is not None
        assert process.stderr is not None
        with process:
            assert process.stdout.read(4) == "many"
            process.stdout.close()
            assert process.stderr.read() == ""
    assert process.returncode == 1


def test_ctrl_c_ends_generate_quietly() -> None:
    with serving({CHAT: as_events(chat_piece("so far"), hold=True)}) as server:
        process = stageline(["generate", "-p", "hi", "--url", server.url])
        assert process.stdout is not None
        assert process.stdout.read(6) == "so far"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
        assert server.left.wait(5)
    assert (process.returncode, out, err.strip()) == (130, "\n", "")


def test_chat_keeps_the_history(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("first\n\n second \n/exit\nnever\n"))
    with serving({CHAT: [chat_answer("1", "st"), chat_answer("2nd")]}) as server:
        assert run(["chat", "--url", server.url]) == 0
    assert capsys.readouterr() == ("1st\n2nd\n", "")
    first, second = (body["messages"] for body in server.bodies)
    assert first == [{"role": "user", "content": "first"}]
    assert second == [*first, {"role": "assistant", "content": "1st"}, {"role": "user", "content": "second"}]


def test_chat_of_piped_lines_ends_at_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("first\nsecond\n"))
    with serving({CHAT: as_error("stage 1 is loading", 503)}) as server:
        assert run(["chat", "--url", server.url]) == 1
    assert capsys.readouterr() == ("", "stageline: error: stage 1 is loading\n")


def test_chat_on_a_terminal_goes_on_after_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("first\nsecond\n"))
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    with serving({CHAT: [as_error("stage 1 is loading", 503), chat_answer("2nd")]}) as server:
        assert run(["chat", "--url", server.url]) == 0
    printed = capsys.readouterr()
    assert "stageline: error: stage 1 is loading\n" in printed.err
    assert printed.out == "> > 2nd\n> \n"
    assert [body["messages"][-1]["content"] for body in server.bodies] == ["first", "second"]
    assert len(server.bodies[1]["messages"]) == 1


def test_ctrl_c_interrupts_an_answer_and_not_the_chat() -> None:
    with serving({CHAT: [as_events(chat_piece("so far"), hold=True), chat_answer("next")]}) as server:
        process = stageline(["chat", "--url", server.url], stdin=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdin.write("first\n")
        process.stdin.flush()
        assert process.stdout.read(6) == "so far"
        process.send_signal(signal.SIGINT)
        assert server.left.wait(5)
        out, err = process.communicate("second\n")
    assert (process.returncode, out, err) == (0, "\nnext\n", "")
    assert server.bodies[1]["messages"][1] == {"role": "assistant", "content": "so far"}


@pytest.mark.parametrize("host", ["mini-4", "mini-5"], ids=["one host", "two hosts"])
def test_status_shows_every_stage(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    beats = {"decode_p50": 0.0123, "decode_p95": 0.02, "busy": 0.25, "wait": 0.5, "transfer": 0.001}
    lost = view("degraded", state="down", pid=None, restarts=3, detail="signal 9", host=host, **beats)
    with serving({CLUSTER: as_view(lost)}) as server:
        assert run(["status", "--url", server.url]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    first, second = ([], []) if host == "mini-4" else (["mini-4"], ["mini-5"])
    assert lines[0] == [
        "tiny",
        "on",
        "metal:",
        "degraded,",
        "1",
        "running,",
        "0",
        "waiting,",
        "0.0",
        "tokens/s,",
        "epoch",
        "1",
    ]
    assert ["0", "0-6", "MEMEM*E", *first, "ready", "-", "-", "-", "-", "-", "21.3", "GB", "0"] in lines
    assert ["1", "7-12", "MEMEM*", *second, "down", "25%", "50%", "0%", "12.30", "20.00", "21.3", "GB", "3"] in lines
    assert lines[-1] == ["stage", "1:", "signal", "9"]


def test_status_fits_a_narrow_terminal() -> None:
    times = {"decode_p50": 0.09999, "decode_p95": 0.9999, "busy": 1.0, "wait": 1.0, "transfer": 1.0}
    wide = view("degraded", state="starting", layers=(44, 88), **times)
    output = io.StringIO()
    Console(file=output, width=80).print(table(wide))
    for cell in ("44-87", "MEMEM*", "starting", "21.3 GB", "100%", "99.99", "999.90", "transfer", "restarts"):
        assert cell in output.getvalue()


def test_status_shows_names_as_they_are() -> None:
    named = msgspec.structs.replace(view("ready", host="mac[/b]"), model="my[/b]model [v2]")
    output = io.StringIO()
    Console(file=output, width=120).print(table(named))
    assert "my[/b]model [v2]" in output.getvalue()
    assert "mac[/b]" in output.getvalue()


def test_status_as_json_is_what_the_coordinator_said(capsys: pytest.CaptureFixture[str]) -> None:
    with serving({CLUSTER: as_view(view())}) as server:
        assert run(["status", "--json", "--url", server.url]) == 0
    assert msgspec.json.decode(capsys.readouterr().out, type=ClusterView) == view()


@pytest.mark.parametrize("kind", ["json", "table"])
def test_status_watch_goes_on_until_ctrl_c(kind: str) -> None:
    answers = [as_view(view("starting")), as_view(view("ready"))]
    arguments = ["status", "--watch", *(["--json"] if kind == "json" else [])]
    with serving({CLUSTER: answers}) as server:
        process = stageline([*arguments, "--url", server.url], env={**os.environ, "PYTHONUNBUFFERED": "1"})
        assert process.stdout is not None
        seen = ""
        while "starting" not in seen or "ready" not in seen.split("starting", 1)[1]:
            seen += process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert (process.returncode, err.strip()) == (130, "")


@pytest.mark.parametrize("kind", ["json", "table"])
def test_status_watch_waits_for_a_coordinator_that_is_gone(kind: str) -> None:
    answers = [as_view(view("starting")), as_error("out of order", 500), as_view(view("ready"))]
    arguments = ["status", "--watch", *(["--json"] if kind == "json" else [])]
    with serving({CLUSTER: answers}) as server:
        process = stageline([*arguments, "--url", server.url], env={**os.environ, "PYTHONUNBUFFERED": "1"})
        assert process.stdout is not None
        seen = ""
        while "ready" not in seen.partition("out of order")[2]:
            seen += process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode == 130
    if kind == "json":
        gone = msgspec.json.decode(seen.splitlines()[1])
        assert gone == {"state": "unreachable", "reason": "out of order", "stages": []}


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_temperature_that_json_cannot_carry(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", "-p", "x", "--temperature", value]) == 2
    assert f"{value} is not a finite number" in capsys.readouterr().err


def test_chat_with_input_that_is_not_utf8(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = io.TextIOWrapper(io.BytesIO(b"a\xff\n"), "utf-8", "surrogateescape")
    monkeypatch.setattr(sys, "stdin", text)
    with serving({}) as server:
        assert run(["chat", "--url", server.url]) == 2
    assert capsys.readouterr().err.startswith("stageline: error: standard input is not UTF-8: ")


def test_what_nobody_foresaw_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("two\nlines")

    monkeypatch.setattr(root, "main", fail)
    assert run([]) == 1
    said = "stageline: error: unexpected ValueError: two lines (STAGELINE_DEBUG=1 shows where)\n"
    assert capsys.readouterr().err == said
    monkeypatch.setenv("STAGELINE_DEBUG", "1")
    with pytest.raises(ValueError, match="two"):
        run([])


@pytest.mark.parametrize("command", ["--help", "status", "generate -p hi"])
@pytest.mark.parametrize(
    ("redirection", "said"),
    [(">/dev/full", "cannot read or write: No space left on device"), (">&-", "standard output is closed; ")],
)
def test_output_that_cannot_be_written(command: str, redirection: str, said: str) -> None:
    if redirection == ">/dev/full" and not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    with serving({CHAT: chat_answer("one"), CLUSTER: as_view(view())}) as server:
        shell = f'exec "$0" -m coordinator.cli {command} {redirection}'
        environment = {**os.environ, "STAGELINE_URL": server.url}
        done = subprocess.run(["sh", "-c", shell, sys.executable], env=environment, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert done.stderr.startswith(f"stageline: error: {said}")


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/null <&-"])
def test_streams_that_nobody_needs_may_be_closed(redirection: str) -> None:
    with serving({CHAT: chat_answer("one")}) as server:
        shell = f'exec "$0" -m coordinator.cli generate -p hi --url {server.url} {redirection}'
        done = subprocess.run(["sh", "-c", shell, sys.executable], stdout=subprocess.PIPE, text=True)
    assert (done.returncode, done.stdout) == (0, "one\n")


WORKER = {"--control": "ipc:///tmp/none", "--session": "s", "--stage": "0", "--stages": "2", "--runtime": "/tmp"}


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--stage", "5", "5 of 2 stages"),
        ("--session", "", "cannot be empty"),
        ("--control", "nonsense", "cannot connect to 'nonsense'"),
    ],
)
def test_a_worker_by_hand_with_wrong_options(option: str, value: str, said: str) -> None:
    words = [word for pair in (WORKER | {option: value}).items() for word in pair]
    done = subprocess.run([sys.executable, "-m", "worker.cli", *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
