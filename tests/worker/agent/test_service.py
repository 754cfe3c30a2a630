"""The files that make launchd and systemd run an agent."""

import os
import plistlib
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from coordinator.cli import run
from worker.agent import service, systemd
from worker.agent.settings import agent_settings
from worker.agent.unit import Place, Unit
from worker.errors import ConfigError
from worker.links.keyring import Keyring

ROOT = Path(__file__).parents[3]
COORDINATOR = ["--coordinator", "tcp://10.0.0.1:4700"]
NAMED = ["--name", "studio-1", "--insecure"]
WORDS = [*COORDINATOR, *NAMED]

MAC = Place(is_mac=True, system=False, user="ada", number=501, home=Path("/Users/ada"))
LINUX = Place(is_mac=False, system=True, user="stageline", number=997, home=Path("/var/lib/stageline"))


def example(place: Place) -> Unit:
    """What stands in deploy/."""
    settings = agent_settings(
        coordinator="tcp://10.0.0.1:4700",
        name="studio-1",
        address=None,
        keys=place.home / ".config/stageline/keys",
        insecure=False,
        stay=True,
    )
    python = str(place.home / "stageline/.venv/bin/python") if place.is_mac else "/opt/stageline/bin/python"
    command = [python, "-P", "-m", "worker.agent.cli", *settings.words]
    return service.render(settings.name, command, {"HF_HOME": str(place.home / "models")}, place)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of the only user, whoever runs the test."""
    for name in (*service.KEPT, "SUDO_USER"):
        monkeypatch.delenv(name, raising=False)
    entry = SimpleNamespace(pw_name="ada", pw_uid=os.getuid(), pw_gid=os.getgid(), pw_dir=str(tmp_path))
    monkeypatch.setattr("pwd.getpwuid", lambda _: entry)
    monkeypatch.setattr("pwd.getpwnam", lambda name: {"ada": entry}[name])
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # so that the service finds this code, installed or not
    return tmp_path


@pytest.fixture(params=["Darwin", "Linux"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("platform.system", lambda: request.param)
    return request.param


@pytest.mark.parametrize(
    ("file", "place"), [("launchd/stageline.agent.plist", MAC), ("systemd/stageline-agent.service", LINUX)]
)
def test_the_examples_are_what_install_writes(file: str, place: Place) -> None:
    assert (ROOT / "deploy" / file).read_text(encoding="utf-8") == example(place).text


def test_launchd_gets_what_it_needs() -> None:
    unit = example(MAC)
    entries = plistlib.loads(unit.text.encode())
    assert unit.path == Path("/Users/ada/Library/LaunchAgents/stageline.agent.plist")
    assert entries["Label"] == unit.path.stem
    assert entries["ProgramArguments"][:4] == ["/Users/ada/stageline/.venv/bin/python", "-P", "-m", "worker.agent.cli"]
    assert "--stay" in entries["ProgramArguments"]
    assert entries["KeepAlive"] == {"SuccessfulExit": False}
    assert entries["ThrottleInterval"] == 30
    assert entries["ExitTimeOut"] == 60  # more than the 3 + 20 seconds of `worker.supervisor`
    assert entries["StandardErrorPath"] == str(unit.log) == "/Users/ada/Library/Logs/stageline-agent.log"
    assert entries["EnvironmentVariables"] == {"HF_HOME": "/Users/ada/models"}
    assert "UserName" not in entries
    assert "launchctl bootstrap gui/501 /Users/ada/Library/LaunchAgents/stageline.agent.plist" in unit.start


def test_a_mac_runs_it_without_a_login_too() -> None:
    unit = example(MAC._replace(system=True))
    assert unit.path == Path("/Library/LaunchDaemons/stageline.agent.plist")
    assert plistlib.loads(unit.text.encode())["UserName"] == "ada"
    assert "sudo launchctl bootstrap system" in unit.start


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("system", [True, False], ids=["the machine's", "a user's"])
def test_systemd_accepts_it(tmp_path: Path, system: bool) -> None:
    place = LINUX._replace(system=system, user="root" if system else "stageline")
    odd = [sys.executable, "-c", "pass", "--name", '50% "of" a $HOME; it\'s \\ all', ""]
    unit = service.render("studio-1", odd, {"HF_HOME": "/a b/100%"}, place)
    file = tmp_path / unit.path.name
    file.write_text(unit.text)
    whose = ["--system"] if system else ["--user"]
    command = ["systemd-analyze", *whose, "verify", "--man=no", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, env={"XDG_RUNTIME_DIR": str(tmp_path)})
    ours = [line for line in done.stderr.splitlines() if unit.path.name in line]
    assert (done.returncode, ours) == (0, [])


def test_systemd_reads_the_words_back() -> None:
    """Shell rules are enough to undo the quotes; then $$ and %% are single."""
    words = ["/opt/py thon", "a'b", 'a"b', "a\\b", "100%", "$HOME", "", "plain", "x;y"]
    line = next(line for line in systemd.unit("n", words, {}, LINUX).text.splitlines() if line.startswith("ExecStart="))
    read = shlex.split(line.removeprefix("ExecStart=").replace("$$", "$").replace("%%", "%"))
    assert read == words


def test_install_twice_change_and_remove(system: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = "Library/LaunchAgents/stageline.agent.plist"
    file = home / (place if system == "Darwin" else ".config/systemd/user/stageline-agent.service")
    assert run(["agent", "install", *WORDS]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"wrote {file}\nnow run")
    assert "launchctl bootstrap" in said if system == "Darwin" else "systemctl --user enable" in said
    text = file.read_text()
    assert sys.executable in text
    assert str(ROOT) in text  # of PYTHONPATH
    assert run(["agent", "install", *WORDS, "--print"]) == 0
    assert capsys.readouterr().out == text
    assert run(["agent", "install", *WORDS]) == 0
    assert capsys.readouterr().out.startswith(f"{file} is as it should be\n")
    assert run(["agent", "install", *COORDINATOR, "--name", "studio-2", "--insecure"]) == 0
    assert capsys.readouterr().out.startswith(f"replaced {file}\n")
    assert "studio-2" in file.read_text()
    assert [each for each in file.parent.iterdir() if each != file] == []
    assert run(["agent", "uninstall"]) == 0
    assert capsys.readouterr().out.startswith(f"removed {file}\nif it runs, end it: ")
    assert not file.exists()
    assert run(["agent", "uninstall"]) == 0
    assert capsys.readouterr().out == f"{file} is not there: nothing to remove\n"


def test_uninstall_removes_what_enable_made(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    assert run(["agent", "install", *WORDS]) == 0
    link = home / ".config/systemd/user/default.target.wants/stageline-agent.service"
    link.parent.mkdir()
    link.symlink_to("../stageline-agent.service")
    assert run(["agent", "uninstall"]) == 0
    assert not link.is_symlink()


def test_print_writes_nothing(system: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["agent", "install", "--print", *COORDINATOR, "--name", "studio-1"]) == 0
    assert "--keys" in capsys.readouterr().out  # the user's own, which need not be there yet
    assert list(home.iterdir()) == []


@pytest.fixture
def by_root(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ada's home, when root installs a service that ada runs; nothing of root's is ada's."""
    root = SimpleNamespace(pw_name="root", pw_uid=0, pw_gid=0, pw_dir=str(tmp_path / "root"))
    monkeypatch.setattr("pwd.getpwuid", lambda _: root)
    monkeypatch.setenv("SUDO_USER", "ada")
    for name in ("HF_HOME", "STAGELINE_KEYS", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, f"/root/{name}")
    return home


def words_of(text: str, system: str) -> list[str]:
    if system == "Darwin":
        return plistlib.loads(text.encode())["ProgramArguments"]
    return shlex.split(next(line for line in text.splitlines() if line.startswith("ExecStart=")))


@pytest.mark.parametrize("user", [[], ["--user", "ada"]], ids=["sudo", "named"])
def test_a_service_of_another_user_has_nothing_of_roots(
    system: str, by_root: Path, capsys: pytest.CaptureFixture[str], user: list[str]
) -> None:
    assert run(["agent", "install", "--system", *user, *COORDINATOR, "--name", "studio-1", "--print"]) == 0
    text = capsys.readouterr().out
    words = words_of(text, system)
    assert words[words.index("--keys") + 1] == str(by_root / ".config/stageline/keys")
    assert "/root/" not in text.replace(sys.executable, "")
    assert "PYTHONPATH" not in text


def test_keys_have_to_be_there_for_who_runs_it(by_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["agent", "install", "--system", *COORDINATOR, "--name", "studio-1"]
    assert run(words) == 2
    said = capsys.readouterr().err
    assert f"{by_root}/.config/stageline/keys/secret: no such file" in said
    assert "as ada, who runs the service: `sudo -u ada -H" in said


def test_keys_have_to_belong_to_who_runs_it(tmp_path: Path, by_root: Path) -> None:
    keys = Keyring(tmp_path / "keys")
    keys.new()
    keys.trust(keys.public)
    settings = agent_settings(
        coordinator="tcp://10.0.0.1:4700", name="one", address=None, keys=keys.directory, insecure=False, stay=True
    )
    place = service.place_of("Linux", system=True, user="ada")
    service.check_keys_of(settings, place)
    with pytest.raises(ConfigError, match=r"keys: is not ada's, who runs the service and could not read it: `sudo ch"):
        service.check_keys_of(settings, place._replace(number=place.number + 1))


def test_the_code_has_to_be_there_without_roots_variables(by_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PYTHONPATH leads whoever installs it to code that the service will not find."""
    site = by_root / "site"
    (site / "worker/agent").mkdir(parents=True)
    python = by_root / "python"
    python.write_text('#!/bin/sh\n[ -n "$PYTHONPATH" ]\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    place = service.place_of("Linux", system=True, user="ada")
    with pytest.raises(ConfigError, match="has no stageline that ada can run"):
        service.check_importable(place)
    monkeypatch.setattr("pwd.getpwuid", lambda _: SimpleNamespace(pw_name="ada"))
    service.check_importable(place)


LAUNCHCTL = """#!/bin/sh
# the job $STATE/job is loaded; with $STATE/leaving it goes at the second look
case $1 in
bootout) [ -e $STATE/job ] || exit 3; touch $STATE/leaving ;;
print)
    [ -e $STATE/job ] || exit 113
    if [ -e $STATE/looked ]; then rm $STATE/job; fi
    touch $STATE/looked ;;
bootstrap) [ ! -e $STATE/job ] || exit 5; echo "$2 $3" > $STATE/started ;;
esac
"""


@pytest.mark.parametrize("loaded", [True, False], ids=["it runs already", "it is new"])
@pytest.mark.parametrize("system_wide", [True, False], ids=["the machine's", "a user's"])
def test_what_a_mac_is_told_to_run_works(tmp_path: Path, loaded: bool, system_wide: bool) -> None:
    """bootout returns before the job is gone, and bootstrap fails as long as it is there."""
    for name, text in (("launchctl", LAUNCHCTL), ("sudo", '#!/bin/sh\nexec "$@"\n')):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    if loaded:
        (tmp_path / "job").touch()
    unit = example(MAC._replace(system=system_wide, home=Path("/Users/ada l")))
    first, log = unit.start.splitlines()
    assert log == "its log: /Users/ada l/Library/Logs/stageline-agent.log"
    command = first.split("error 5): ")[1]
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "STATE": str(tmp_path)}
    subprocess.run(["sh", "-c", command], env=environment, check=True)
    domain = "system" if system_wide else "gui/501"
    assert (tmp_path / "started").read_text() == f"{domain} {unit.path}\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--coordinator", "nonsense", *NAMED], "expected tcp://ADDRESS:PORT"),
        ([*WORDS, "--system", "--user", "nobody-here"], "--user 'nobody-here': there is no such user here"),
        ([*WORDS, "--user", "ada"], "--user goes with --system"),
        ([*COORDINATOR, "--name", "studio-1", "--keys", "/nowhere"], "/nowhere/secret: no such file"),
    ],
    ids=["coordinator", "user", "user alone", "keys"],
)
def test_wrong_options(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    assert run(["agent", "install", *options]) == 2
    assert said in capsys.readouterr().err
    assert list(home.iterdir()) == []


def test_a_system_without_either(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "FreeBSD")
    with pytest.raises(ConfigError, match="FreeBSD has neither launchd nor systemd"):
        service.remove("FreeBSD", system=False)
    assert run(["agent", "install", *WORDS]) == 2


def test_a_place_that_cannot_be_written(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    (home / ".config").write_text("a file")
    assert run(["agent", "install", *WORDS]) == 2
    assert "stageline-agent.service: cannot be written: " in capsys.readouterr().err


def test_code_that_the_service_would_not_find(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    assert run(["agent", "install", *WORDS]) == 2
    assert "has no stageline that ada can run: install it with pip" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
