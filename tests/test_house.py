"""What holds for the tree as a whole."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

LOCKS = {
    "cpu": PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["cpu"],
    "cuda13": PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["cuda13"],
    "dev": PROJECT["project"]["dependencies"]
    + PROJECT["project"]["optional-dependencies"]["cpu"]
    + PROJECT["dependency-groups"]["dev"],
}


def locked(name: str) -> dict[str, str]:
    """Package -> version, of those that this platform needs."""
    text = (ROOT / f"locks/{name}.lock").read_text(encoding="utf-8")
    lines = re.findall(r"^([a-z0-9].*?) \\$", text, re.MULTILINE)
    requirements = [Requirement(line) for line in lines]
    environment = {**default_environment(), "extra": ""}
    return {
        each.name: next(iter(each.specifier)).version
        for each in requirements
        if each.marker is None or each.marker.evaluate(environment)
    }


@pytest.mark.parametrize("name", LOCKS)
def test_lock_holds_what_the_project_asks_for(name: str) -> None:
    versions = locked(name)
    for text in LOCKS[name]:
        wanted = Requirement(text)
        assert wanted.name in versions, f"locks/{name}.lock is old: run `make lock`"
        assert wanted.specifier.contains(versions[wanted.name]), f"locks/{name}.lock is old: run `make lock`"


@pytest.mark.parametrize("name", LOCKS)
def test_lock_pins_by_hash_and_names_no_server(name: str) -> None:
    text = (ROOT / f"locks/{name}.lock").read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.search(r"^\S+==\S+( ;[^\\]*)?$", text, re.MULTILINE)  # each goes on with its hashes
    assert "--hash=sha256:" in text


def test_coordinator_runs_without_mlx() -> None:
    code = """
import importlib, pkgutil, sys
sys.modules["mlx"] = None  # to import it is an ImportError
import coordinator
for module in pkgutil.walk_packages(coordinator.__path__, "coordinator."):
    importlib.import_module(module.name)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_wheel_holds_every_file_of_the_packages(tmp_path: Path) -> None:
    """The dashboard's page and the kernels' texts are no Python, and belong to the packages all the same."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    kinds = {".py", ".h", ".html", ".css", ".js", ".svg"}
    files = {
        str(path.relative_to(ROOT)) for name in packages for path in (ROOT / name).rglob("*") if path.suffix in kinds
    }
    assert "coordinator/dashboard/index.html" in files
    assert files <= held


def test_source_is_ascii() -> None:
    odd = [
        str(file.relative_to(ROOT))
        for folder in ("coordinator", "worker", "kernels", "scripts")
        for file in (ROOT / folder).rglob("*.py")
        if not file.read_bytes().isascii()
    ]
    assert odd == []


def test_the_product_needs_nothing_of_the_development_tools(tmp_path: Path) -> None:
    """Imports every module and renders a chat with the packages of cpu.lock alone; jinja2 was missing there once."""
    only_dev = {name.lower() for name in locked("dev").keys() - locked("cpu").keys()}
    code = f"""
import importlib, importlib.metadata, pkgutil, sys
from pathlib import Path
only_dev = {sorted(only_dev)!r}
for package, distributions in importlib.metadata.packages_distributions().items():
    if {{name.lower().replace("_", "-") for name in distributions}} <= set(only_dev):
        sys.modules[package] = None
assert sys.modules["mlx_lm"] is None
import coordinator, kernels, worker
for package in (coordinator, kernels, worker):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
from coordinator.demo import write_tokenizer
from coordinator.text.prompt import PromptCodec
write_tokenizer(Path({str(tmp_path)!r}))
print(PromptCodec.load(Path({str(tmp_path)!r})).render([{{"role": "user", "content": "hi"}}]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    assert "<|im_start|>user\nhi<|im_end|>" in done.stdout
