"""The check of key files, on directories as `stageline keys` leaves them, and spoiled."""

import pytest

from worker.checkup.key_files import ANEW, EXCHANGE, NEW, key_files
from worker.errors import ConfigError
from worker.links.keyring import Keyring


@pytest.fixture
def keyring(tmp_path):
    made = Keyring(tmp_path / "keys")
    made.new()
    return made


def another(tmp_path):
    made = Keyring(tmp_path / "other")
    made.new()
    return made.public


def test_no_keys(tmp_path):
    finding = key_files(tmp_path / "keys")
    assert (finding.level, finding.fix) == ("fail", NEW)


def test_lonely_keys(keyring):
    finding = key_files(keyring.directory)
    assert (finding.level, finding.fix) == ("warn", EXCHANGE)
    assert keyring.public in finding.found
    assert keyring.secret not in finding.found


def test_keys_of_the_coordinator(keyring, tmp_path):
    keyring.add("studio-1", another(tmp_path))
    finding = key_files(keyring.directory)
    assert finding.level == "ok"
    assert finding.found.endswith(", 1 host allowed (studio-1)")


def test_keys_of_another_host(keyring, tmp_path):
    public = another(tmp_path)
    keyring.trust(public)
    finding = key_files(keyring.directory)
    assert finding.level == "ok"
    assert f"coordinator {public}" in finding.found


@pytest.mark.parametrize(("mode", "level"), [(0o755, "warn"), (0o775, "fail")], ids=["755", "775"])
def test_a_directory_fails_where_its_keys_are_refused(keyring, tmp_path, mode, level):
    keyring.add("studio-1", another(tmp_path))
    keyring.directory.chmod(mode)
    finding = key_files(keyring.directory)
    assert (finding.level, finding.fix) == (level, f"chmod 700 {keyring.directory}")
    assert f"mode {mode:o}" in finding.found
    if level == "fail":
        with pytest.raises(ConfigError, match="other users can write there"):
            _ = keyring.public
    else:
        assert keyring.public in finding.found


def test_a_secret_that_others_may_read(keyring):
    (keyring.directory / "secret").chmod(0o640)
    finding = key_files(keyring.directory)
    assert (finding.level, finding.fix) == ("fail", f"chmod 600 {keyring.directory / 'secret'}")


@pytest.mark.parametrize("name", ["coordinator", "allowed"])
def test_a_file_of_trust_that_others_may_write(keyring, tmp_path, name):
    keyring.trust(another(tmp_path))
    keyring.add("studio-1", keyring.coordinator)
    (keyring.directory / name).chmod(0o660)
    finding = key_files(keyring.directory)
    assert (finding.level, finding.fix) == ("fail", f"chmod 600 {keyring.directory / name}")


@pytest.mark.parametrize("name", ["secret", "coordinator", "allowed"])
def test_a_file_that_holds_no_key(keyring, name):
    path = keyring.directory / name
    path.write_text("nonsense\n")
    finding = key_files(keyring.directory)
    assert (finding.level, finding.fix) == ("fail", ANEW)
    assert str(path) in finding.found
