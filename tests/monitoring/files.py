"""What `deploy/monitoring` holds: dashboards, rules, and the series they name."""

import json
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/monitoring"
DASHBOARDS = sorted(FOLDER.glob("grafana/dashboards/*.json"))
COMPARISON = re.compile(r" (==|!=|>=|<=|>|<) ")


def dashboard(path):
    return json.loads(path.read_text())


def rules(name):
    groups = yaml.safe_load((FOLDER / f"prometheus/{name}.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def queries():
    """Every expression a user may see evaluated: (where, expression, legend)."""
    for path in DASHBOARDS:
        board = dashboard(path)
        for panel in board["panels"]:
            for target in panel["targets"]:
                where = f"{path.name}: {panel['title']}: {target['refId']}"
                yield where, target["expr"], target.get("legendFormat", "")
        for each in board["annotations"]["list"]:
            yield f"{path.name}: {each['name']}", each["expr"], ""
    for rule in rules("recording"):
        yield rule["record"], rule["expr"], ""
    for rule in rules("alerts"):
        yield rule["alert"], rule["expr"], ""


def names(expression):
    """The series an expression reads, histograms without their suffix; also those that recording rules make."""
    found = re.findall(r"[a-z_:]*stageline_[a-z0-9_:]+", re.sub(r'"[^"]*"', '""', expression))
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in found}


def documented():
    """The series of docs/metrics.md."""
    return set(re.findall(r"^\| `(stageline_\w+)`", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE))


def empty_until():
    """What docs/monitoring.md says has no data until something happens: series -> event."""
    page = (ROOT / "docs/monitoring.md").read_text()
    section = page.split("## Empty until something happens\n")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| `([^`]+)` \| (.+?) \|$", section, re.MULTILINE))
