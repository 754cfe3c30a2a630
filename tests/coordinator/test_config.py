from pathlib import Path
from typing import Any

import pytest

from coordinator import config
from coordinator.config import Settings, check_host, settings
from worker.errors import ConfigError

ROOT = Path(__file__).parents[2]


def written(directory: Path, text: str) -> Path:
    file = directory / "cluster.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_defaults() -> None:
    assert settings(None, {}, {}) == Settings()


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    file = written(tmp_path, "port = 1\nstages = 1\nprefill_chunk = 1")
    given = settings(file, {"STAGELINE_PORT": "2", "STAGELINE_STAGES": "2"}, {"port": "3", "host": None})
    assert given == Settings(port=3, stages=2, prefill_chunk=1)


def test_environment_is_text_that_is_converted() -> None:
    environment = {
        "STAGELINE_API_KEY": "123",
        "STAGELINE_INSECURE": "true",
        "STAGELINE_LOADING_TIMEOUT": "1.5",
        "STAGELINE_PORT": "",
        "STAGELINE_URL": "http://elsewhere",
    }
    assert settings(None, environment, {}) == Settings(api_key="123", insecure=True, loading_timeout=1.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prefil-chunk = 3", r"cluster\.toml: unknown key prefil-chunk; did you mean prefill_chunk\?"),
        ("zzz = 3", r"cluster\.toml: unknown key zzz; known keys: model, .*restart_delay_limit"),
        ("port = '8000'", r"cluster\.toml: port '8000': Expected `int`, got `str` \(port to serve"),
        ("port = 65536", r"cluster\.toml: port 65536: Expected `int` <= 65535"),
        ("context = 1", r"cluster\.toml: context 1: Expected `int` >= 2"),
        ("heartbeat_timeout = nan", r"cluster\.toml: heartbeat_timeout nan: Expected `float`"),
        ("port =", r"cluster\.toml is not TOML: "),
        ("[port]\nnumber = 1", r"cluster\.toml: port .*Expected `int`"),
        ("restart_delay = 60.0", r"restart_delay 60\.0 is more than restart_delay_limit 30\.0"),
    ],
)
def test_mistake_in_the_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(written(tmp_path, text), {}, {})


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the settings .*none\.toml: No such file"):
        settings(tmp_path / "none.toml", {}, {})


def test_file_that_is_not_text(tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    file.write_bytes(b"model = '\xff'")
    with pytest.raises(ConfigError, match=r"cluster\.toml is not TOML: .*utf-8"):
        settings(file, {}, {})


@pytest.mark.parametrize(
    ("environment", "flags", "message"),
    [
        ({"STAGELINE_PORT": "http"}, {}, r"^STAGELINE_PORT 'http': Expected `int`"),
        ({}, {"stages": "0"}, r"^--stages '0': Expected `int` >= 1"),
        ({}, {"prefill_chunk": "2.5"}, r"^--prefill-chunk '2\.5': Expected `int`"),
        ({}, {"quantize": "8:3"}, r"^--quantize '8:3'"),
        ({}, {"model": ""}, r"^MODEL '': Expected `str` of length >= 1"),
    ],
)
def test_mistake_elsewhere(environment: dict[str, str], flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(None, environment, flags)


def test_error_does_not_show_the_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(written(tmp_path, "api_key = 98765"), {}, {})
    assert "api_key" in caught.value.message
    assert "98765" not in caught.value.message


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]"])
def test_loopback_needs_no_key(host: str) -> None:
    check_host(settings(None, {}, {"host": host}))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5"])
def test_other_addresses_need_a_key_or_a_decision(host: str) -> None:
    with pytest.raises(ConfigError, match=r"STAGELINE_API_KEY.*--insecure"):
        check_host(settings(None, {}, {"host": host}))
    check_host(settings(None, {}, {"host": host, "insecure": True}))
    check_host(settings(None, {"STAGELINE_API_KEY": "k"}, {"host": host}))


@pytest.mark.parametrize("host", ["a..b", "no.such.host.invalid"])
def test_a_host_that_does_not_resolve(host: str) -> None:
    with pytest.raises(ConfigError, match=f"--host {host}: no such name"):
        check_host(settings(None, {}, {"host": host}))


@pytest.mark.parametrize("control", ["10.0.0.1", "10.0.0.1:", "10.0.0.1:65536", "desk:8011", ":8011", "10.0.0.1:-1"])
def test_what_agents_cannot_dial(control: str) -> None:
    with pytest.raises(ConfigError, match=f"--control {control}: expected IP:PORT"):
        settings(None, {}, {"control": control})


@pytest.mark.parametrize("key", ["sch\u00f6n", "a\tb", "a\n", " s3cret", "\x7f"])
def test_a_key_that_no_header_can_carry(key: str) -> None:
    with pytest.raises(ConfigError, match="printable ASCII") as caught:
        settings(None, {"STAGELINE_API_KEY": key}, {})
    assert key not in caught.value.message


def test_byte_order_mark(tmp_path: Path) -> None:
    assert settings(written(tmp_path, "\ufeffport = 1"), {}, {}).port == 1


def test_example_file_is_current() -> None:
    assert (ROOT / "configs/example.toml").read_text(encoding="utf-8") == config.example()


def test_example_gives_the_defaults_and_examples_that_work(tmp_path: Path) -> None:
    assert settings(written(tmp_path, config.example()), {}, {}) == Settings()
    lines = [line.removeprefix("#") for line in config.example().splitlines() if not line.startswith("# ")]
    given = settings(written(tmp_path, "\n".join(lines)), {}, {})
    with_examples = {"model", "model_name", "quantize", "context", "api_key", "max_running", "state_bytes"}
    with_examples |= {"snapshot_bytes", "snapshot_dir", "stages", "lock", "hosts", "python", "control", "keys"}
    assert {key for key in config.KEYS if getattr(given, key) != config.default(key)} == with_examples
