"""Dashboards, rules and compose file, as far as they can be checked without running them."""

import re

import pytest
import yaml

from tests.monitoring.files import DASHBOARDS, FOLDER, dashboard, documented, empty_until, names, queries, rules

PANELS = [
    pytest.param(panel, id=f"{path.stem}-{panel['title']}")
    for path in DASHBOARDS
    for panel in dashboard(path)["panels"]
]
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_says_what_it_shows_in_which_unit_and_what_to_do(panel):
    assert panel["title"]
    assert len(panel["description"]) > 20
    assert panel["datasource"] == DATASOURCE
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert [target["refId"] for target in panel["targets"]] == list("ABCDEFGH"[: len(panel["targets"])])
    for target in panel["targets"]:
        assert target["expr"]
        if target.get("format") != "table":
            assert target["legendFormat"]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_can_be_provisioned_and_fills_the_page(path):
    board = dashboard(path)
    assert board["uid"] == f"stageline-{path.stem}"
    assert board["schemaVersion"] == 39  # Grafana 11
    assert "id" not in board
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    used = set(re.findall(r"\$\{?(?!__)(\w+)", path.read_text()))
    assert used == set(variables)
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    taken = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    rows = 1 + max(y for _, y in taken)
    assert taken == {(x, y) for x in range(24) for y in range(rows)}


def test_links_between_dashboards_lead_somewhere():
    known = {dashboard(path)["uid"] for path in DASHBOARDS}
    linked = {uid for path in DASHBOARDS for uid in re.findall(r'"/d/([\w-]+)', path.read_text())}
    assert linked <= known
    assert linked


def test_shown_series_are_the_documented_ones():
    recorded = {rule["record"] for rule in rules("recording")}
    used = set().union(*(names(expression) for _, expression, _ in queries()))
    assert used - recorded - documented() == set()
    assert documented() - used == set()
    assert recorded - used == set()


def test_what_is_said_to_be_empty_is_shown_somewhere():
    assert [part for part in empty_until() if not any(part in expression for _, expression, _ in queries())] == []
    assert empty_until()


@pytest.mark.parametrize("alert", rules("alerts"), ids=lambda rule: rule["alert"])
def test_an_alert_says_what_to_do(alert):
    assert alert["labels"]["severity"] in ("warning", "critical")
    assert len(alert["annotations"]["summary"]) < 100
    assert len(alert["annotations"]["description"]) > 80
    named = set(re.findall(r'"(Stageline: \w+)"', alert["annotations"]["description"]))
    assert named <= {dashboard(path)["title"] for path in DASHBOARDS}


def test_every_alert_has_a_case_in_which_it_fires():
    cases = (FOLDER.parents[1] / "tests/monitoring/rules_test.yml").read_text()
    assert [rule["alert"] for rule in rules("alerts") if rule["alert"] not in cases] == []


def test_compose_mounts_what_exists_and_pins_its_images():
    compose = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    services = compose["services"]
    assert set(services) == {"prometheus", "grafana"}
    inside = {}
    for service in services.values():
        assert re.fullmatch(r"[a-z]+/[a-z]+:v?\d+\.\d+\.\d+", service["image"])
        assert service["network_mode"] == "host"
        for mount in service["volumes"]:
            source, target, *_ = mount.split(":")
            if source.startswith("."):
                assert (FOLDER / source).is_dir()
                inside[target] = FOLDER / source
            else:
                assert source in compose["volumes"]
    assert (inside["/etc/prometheus"] / "prometheus.yml").is_file()
    (provider,) = yaml.safe_load((inside["/etc/grafana/provisioning"] / "dashboards/stageline.yaml").read_text())[
        "providers"
    ]
    assert sorted(inside[provider["options"]["path"]].glob("*.json")) == DASHBOARDS
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert inside[home.rpartition("/")[0]] / home.rpartition("/")[2] in DASHBOARDS


def test_grafana_asks_the_prometheus_of_the_compose_file_at_its_pace():
    (source,) = yaml.safe_load((FOLDER / "grafana/provisioning/datasources/stageline.yaml").read_text())["datasources"]
    prometheus = yaml.safe_load((FOLDER / "prometheus/prometheus.yml").read_text())
    command = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]["prometheus"]["command"]
    assert f"--web.listen-address={source['url'].removeprefix('http://')}" in command
    assert source["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"]
