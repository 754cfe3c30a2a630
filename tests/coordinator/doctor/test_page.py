"""docs/doctor.md says what the checks say."""

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import coordinator.doctor
import worker.checkup
from worker.checkup.check import Check

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/doctor.md").read_text(encoding="utf-8")


def checks():
    for package in (worker.checkup, coordinator.doctor):
        for info in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            if info.name != "worker.checkup.live":  # a program, which imports MLX
                yield from (each for each in vars(importlib.import_module(info.name)).values() if type(each) is Check)


def test_the_page_is_up_to_date():
    environment = {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "scripts/doctor.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_check_is_on_the_page():
    names = [check.name for check in checks()]
    assert len(names) == len(set(names)) >= 18
    assert [name for name in names if f"\n| `{name}` | " not in PAGE] == []
