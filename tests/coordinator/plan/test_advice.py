"""What `stageline plan` says would fit, taken literally."""

import re

import pytest

from coordinator.cli import run

WAYS = re.compile(r"(--quantize \S+|--context \d+|--stages \d+|\d+ such machines(?: with --stages \d+)?)(?:;|\. )")


def ways(said):
    """The options of each piece of advice; `such machines` as COUNT."""
    found = WAYS.findall(said.partition("What fits: ")[2] + " ")
    return [re.sub(r"(\d+) such machines(?: with)?", r"COUNT \1", way).split() for way in found]


def followed(model, machine, options, way):
    """The command with this one change; what was given before gives way."""
    if way[:1] == ["COUNT"]:
        machine, way = f"{way[1]} x {machine.partition(' x ')[2]}", way[2:]
    for name, value in zip(way[::2], way[1::2], strict=True):
        options = {**options, name: value}
    return ["plan", model, "--machine", machine, *(word for option in options.items() for word in option)]


@pytest.mark.parametrize(
    ("model", "machine", "options", "kinds"),
    [
        ("ultra", "3 x M2 Max 64", {}, "COUNT"),
        ("ultra", "14 x M2 Max 64", {}, "--quantize --context COUNT"),
        ("ultra", "1 x M3 Ultra 512", {}, "--quantize COUNT"),
        ("ultra", "2 x M3 Ultra 256", {"--objective": "latency"}, "--quantize COUNT"),
        ("super", "2 x M4 Max 64", {}, "--quantize COUNT"),
        ("super", "2 x M4 Max 64", {"--sequences": "40"}, "--quantize COUNT"),
        ("super", "3 x M4 Max 36", {"--batch": "3"}, "--quantize COUNT"),
        ("super", "4 x M4 Max 64", {"--stages": "2"}, "--quantize --stages"),
        ("super", "2 x M4 Max 64", {"--stages": "2"}, "--quantize COUNT"),
        ("super", "1 x M4 Max 64", {"--stages": "2"}, "--quantize COUNT"),
        ("super", "1 x M3 Ultra 128", {"--stages": "8", "--batch": "8", "--context": "262144"}, "COUNT"),
        ("nano", "4 x M4 Pro 8", {"--context": "262144"}, "--quantize COUNT"),
        ("nano", "2 x M4 Max 36", {"--batch": "8", "--context": "262144"}, "--quantize --context COUNT"),
        ("nano", "1 x M4 Max 64", {"--stages": "16", "--context": "262144"}, "--quantize --context --stages"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_said_to_fit_fits(capsys, model, machine, options, kinds):
    assert run(followed(model, machine, options, [])) == 2
    said = capsys.readouterr().err
    advised = ways(said)
    assert [way[0] for way in advised] == kinds.split(), said
    for way in advised:
        assert run(followed(model, machine, options, way)) == 0, (way, capsys.readouterr().err)
