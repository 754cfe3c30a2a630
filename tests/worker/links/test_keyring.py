"""The directory of keys: what is written for whose eyes, and what is refused."""

import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
import zmq

from worker.errors import ConfigError
from worker.links.keyring import Keyring, is_key


@pytest.fixture
def keyring(tmp_path):
    keyring = Keyring(tmp_path / "keys")
    keyring.new()
    return keyring


def a_key():
    return zmq.curve_keypair()[0].decode()


def test_nobody_else_may_read_what_is_written(keyring):
    keyring.add("studio-1", a_key())
    keyring.trust(a_key())
    files = sorted(keyring.directory.iterdir())
    assert [file.name for file in files] == ["allowed", "coordinator", "lock", "secret"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert stat.S_IMODE(keyring.directory.stat().st_mode) == 0o700


def test_the_pair_belongs_together(keyring):
    assert zmq.curve_public(keyring.secret.encode()).decode() == keyring.public
    assert Keyring(keyring.directory).public == keyring.public
    assert is_key(keyring.public)
    before = keyring.public
    keyring.new()
    assert keyring.public != before


def test_the_list_is_read_anew_when_another_process_changes_it(keyring):
    other = Keyring(keyring.directory)
    assert keyring.names() == ()
    one, two, new = a_key(), a_key(), a_key()
    other.add("studio-1", one)
    other.add("studio-2", two)
    assert keyring.names() == ("studio-1", "studio-2")
    assert (keyring.key_of("studio-1"), keyring.name_of(two)) == (one, "studio-2")
    other.add("studio-1", new)
    assert (keyring.name_of(one), keyring.name_of(new)) == (None, "studio-1")
    other.revoke("studio-2")
    assert (keyring.key_of("studio-2"), keyring.name_of(two)) == (None, None)


@pytest.mark.parametrize("mode", [0o640, 0o604], ids=["group", "others"])
def test_a_secret_that_others_may_read_is_none(keyring, mode):
    path = keyring.directory / "secret"
    path.chmod(mode)
    with pytest.raises(ConfigError, match=rf"secret: other users can read it \(mode {mode:o}\): `chmod 600 {path}`"):
        _ = keyring.public


def test_a_list_that_others_may_write_is_none(keyring):
    keyring.add("studio-1", a_key())
    (keyring.directory / "allowed").chmod(0o660)
    with pytest.raises(ConfigError, match="other users can write it: `chmod 600"):
        Keyring(keyring.directory).names()


def test_a_coordinator_that_others_may_name_is_none(keyring):
    keyring.trust(a_key())
    (keyring.directory / "coordinator").chmod(0o620)
    with pytest.raises(ConfigError, match="coordinator: other users can write it: `chmod 600"):
        _ = keyring.coordinator


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o1777], ids=oct)
@pytest.mark.parametrize(
    "ask",
    [lambda keyring: keyring.public, lambda keyring: keyring.coordinator, lambda keyring: keyring.names()],
    ids=["secret", "coordinator", "allowed"],
)
def test_a_directory_that_others_may_write_holds_no_keys(keyring, ask, mode):
    keyring.trust(a_key())
    Keyring(keyring.directory).add("studio-1", a_key())
    keyring.directory.chmod(mode)
    with pytest.raises(ConfigError, match=rf"other users can write there: `chmod 700 {keyring.directory}`"):
        ask(keyring)


@pytest.mark.parametrize(
    "change",
    [Keyring.new, lambda keyring: keyring.trust(a_key()), lambda keyring: keyring.add("studio-1", a_key())],
    ids=["new", "trust", "add"],
)
@pytest.mark.parametrize("made", [False, True], ids=["empty", "with keys"])
def test_nothing_is_written_where_others_may_write(tmp_path, change, made):
    keyring = Keyring(tmp_path / "keys")
    if made:
        keyring.new()
    keyring.directory.mkdir(exist_ok=True)
    keyring.directory.chmod(0o777)
    before = {path.name: path.read_bytes() for path in keyring.directory.iterdir()}
    with pytest.raises(ConfigError, match=f"other users can write there: `chmod 700 {keyring.directory}`"):
        change(keyring)
    assert {path.name: path.read_bytes() for path in keyring.directory.iterdir()} == before


def test_a_secret_that_cannot_be_put_in_its_place_is_not_left_beside_it(tmp_path):
    keyring = Keyring(tmp_path / "keys")
    (keyring.directory / "secret").mkdir(parents=True)
    keyring.directory.chmod(0o700)
    with pytest.raises(ConfigError, match="secret: cannot be written: Is a directory"):
        keyring.new()
    assert [path.name for path in keyring.directory.iterdir()] == ["secret"]


def test_hosts_that_are_let_in_at_the_same_time_are_all_let_in(keyring):
    names = [f"studio-{number}" for number in range(40)]
    keys = {name: a_key() for name in names}

    def add(some):
        own = Keyring(keyring.directory)
        for name in some:
            own.add(name, keys[name])

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(add, names[at::4]) for at in range(4)]:
            done.result()
    assert {name: keyring.key_of(name) for name in names} == keys


@pytest.mark.parametrize(
    ("ask", "fix"),
    [
        (lambda keyring: keyring.public, "`stageline keys new` makes this host's keys"),
        (lambda keyring: keyring.coordinator, "`stageline keys add --coordinator KEY`"),
    ],
    ids=["own", "coordinator"],
)
def test_what_is_missing_is_named_with_its_fix(tmp_path, ask, fix):
    with pytest.raises(ConfigError, match=fix):
        ask(Keyring(tmp_path / "none"))


@pytest.mark.parametrize("key", ["", "short", "x" * 41, "~" * 40, "é" * 40], ids=["empty", "short", "long", "~", "é"])
def test_what_is_no_key(keyring, key):
    for change in (lambda: keyring.add("studio-1", key), lambda: keyring.trust(key)):
        with pytest.raises(ConfigError, match="not a key"):
            change()
    assert keyring.names() == ()


@pytest.mark.parametrize("name", ["", "a/b", "a b", "-h", "..", "a\n"], ids=repr)
def test_what_is_no_name(keyring, name):
    with pytest.raises(ConfigError, match="is no name of a host"):
        keyring.add(name, a_key())


def test_one_key_is_one_host(keyring):
    key = a_key()
    keyring.add("studio-1", key)
    keyring.add("studio-1", key)
    with pytest.raises(ConfigError, match="studio-2 has the key of studio-1"):
        keyring.add("studio-2", key)


def test_a_host_that_is_not_listed_cannot_be_shut_out(keyring):
    keyring.add("studio-1", a_key())
    with pytest.raises(ConfigError, match=r"studio-2 is not on the list of .*; on it: studio-1"):
        keyring.revoke("studio-2")


@pytest.mark.parametrize(
    "line", ["studio-1", "studio-1 {0} more", "/ {0}", "studio-0 {0}", "studio-1 {1}"],
    ids=["no key", "three words", "no name", "name twice", "key twice"],
)  # fmt: skip
def test_a_line_that_is_none(keyring, line):
    first = a_key()
    text = f"studio-0 {first}\n" + line.format(a_key(), first) + "\n"
    (keyring.directory / "allowed").touch(0o600)
    (keyring.directory / "allowed").write_text(text)
    with pytest.raises(ConfigError, match="allowed: line 2 is not a new name"):
        keyring.names()


def test_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("STAGELINE_KEYS", raising=False)
    assert Keyring.at(None).directory == tmp_path / ".config/stageline/keys"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert Keyring.at(None).directory == tmp_path / "xdg/stageline/keys"
    monkeypatch.setenv("STAGELINE_KEYS", "~/elsewhere")
    assert Keyring.at(None).directory == tmp_path / "elsewhere"
    assert Keyring.at("~/named").directory == tmp_path / "named"
