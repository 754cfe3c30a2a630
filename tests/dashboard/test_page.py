"""The dashboard in Chromium, on a cluster of three stages that several clients keep busy."""

import json
import os
import signal
import time

import pytest

from coordinator.size import size
from tests.cluster.running import running
from tests.cluster.slowed import slow_down
from tests.dashboard.browser import DESKTOP, PHONE, Dashboard, chromium
from tests.dashboard.clients import clients

KEY = "a-key-of-the-test"
STATE = "**/dashboard/state*"

# the browser's driver and three workers start on few cores
pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def cluster(browser, tmp_path_factory):
    settings = tmp_path_factory.mktemp("settings") / "settings.toml"
    settings.write_text("restart_delay = 4.0\n")
    with pytest.MonkeyPatch.context() as patch:
        slow_down(patch, step=0.005)  # busy stages that leave the cores to the browser
        with running(stages=3, arguments=["--api-key", KEY, "--config", str(settings)]) as cluster:
            cluster.client.headers["authorization"] = f"Bearer {KEY}"
            with clients(cluster.url, 4, key=KEY):
                yield cluster


@pytest.fixture
def dashboard(browser, cluster):
    dashboard = Dashboard(browser, cluster.url, key=KEY)
    dashboard.wait_for_live()
    yield dashboard
    dashboard.close()


def test_the_key_is_asked_for_and_kept_in_the_tab(browser, cluster):
    dashboard = Dashboard(browser, cluster.url)
    page = dashboard.page
    page.wait_for_selector("#key-form:not([hidden])")
    assert page.locator("#main").is_hidden()
    for wrong in ("wrong", "\N{KEY}"):
        page.locator("#key-refused").evaluate("element => { element.textContent = ''; }")
        page.keyboard.type(wrong)
        page.keyboard.press("Enter")
        dashboard.wait_until("document.getElementById('key-refused').textContent.includes('does not accept')")
    page.keyboard.type(KEY)
    page.keyboard.press("Enter")
    dashboard.wait_for_live()
    page.reload()
    dashboard.wait_for_live()
    assert all("401" in error for error in dashboard.errors)  # how Chromium logs the two refusals
    dashboard.errors.clear()
    dashboard.close()


def test_it_shows_what_the_cluster_says(dashboard, cluster):
    view = cluster.cluster()
    assert dashboard.text("#model") == view["model"]
    assert dashboard.text("#state b") == "ready"
    assert dashboard.page.locator(".stage").count() == 3
    for number, stage in enumerate(view["stages"]):
        card = dashboard.card(number)
        assert card.get_attribute("data-state") in ("ready", "slow")
        assert card.locator(".layer").all_inner_texts() == list(stage["pattern"])
        assert stage["host"] in card.inner_text()
        assert f"pid {stage['pid']}" in card.inner_text()
    dashboard.wait_until("document.querySelectorAll('#requests tr').length >= 4")
    shown = set(dashboard.page.locator("#requests td:first-child").all_inner_texts())
    assert shown & {request["id"] for request in cluster.cluster()["requests"]}


def test_numbers_are_written_with_three_digits_and_a_unit(dashboard):
    counts = [0, 999, 1000, 99_949, 3_113_280, 21_300_000_000, 1_250_000_000_000, 7_000_000_000_000_000]
    written = dashboard.page.evaluate(
        """async (counts) => {
            const { size, latency, rate, duration } = await import("/dashboard/units.js");
            return [
                counts.map(size),
                [null, 0.000314, 0.0124, 0.12, 1.5].map(latency),
                [0, 0.04, 3.14, 117.6, 12345].map(rate),
                [0, 59.6, 200, 7500, 273600].map(duration),
            ];
        }""",
        counts,
    )
    sizes, latencies, rates, durations = written
    assert [text.replace(",", "") for text in sizes[:-1]] == [size(count) for count in counts[:-1]]
    assert sizes[-1] == "7,000 TB"
    assert latencies == ["\u2013", "0.31 ms", "12.4 ms", "120 ms", "1.50 s"]
    assert rates == ["0", "0", "3.1", "118", "12,345"]
    assert durations == ["0 s", "1 min", "3 min 20 s", "2 h 5 min", "3 d 4 h"]


def test_an_axis_has_round_steps_and_little_empty_room(dashboard):
    wanted = [
        ((1, 2), 1, [0, 0.5, 1]),
        ((0.0225, 2), 0.03, [0, 0.02]),
        ((118, 3), 125, [0, 50, 100]),
        ((4.4, 3), 5, [0, 2, 4]),
        ((1000, 3), 1000, [0, 500, 1000]),
    ]
    script = (
        "async (all) => { const { axis } = await import('/dashboard/scale.js'); return all.map(of => axis(...of)); }"
    )
    drawn = dashboard.page.evaluate(script, [largest_and_count for largest_and_count, _, _ in wanted])
    for axis, (of, top, levels) in zip(drawn, wanted, strict=True):
        assert axis["top"] == pytest.approx(top), of
        assert axis["levels"] == pytest.approx(levels), of


def test_numbers_and_charts_change_under_load(dashboard):
    dashboard.wait_until("Number(document.getElementById('generated').textContent) > 0")
    dashboard.wait_until(
        "[...document.querySelectorAll('#latency .line, #shares .area.busy, #overview .line.generated')]"
        ".every(path => (path.getAttribute('d') ?? '').length > 20)"
    )
    dashboard.wait_until("/\\d ms/.test(document.getElementById('step').textContent)")
    watched = ["#generated", "#requests", ".stage .card", "#uptime"]
    before = [dashboard.page.locator(selector).first.inner_text() for selector in watched]
    lines = "[...document.querySelectorAll('#latency .line')].map(path => path.getAttribute('d'))"
    drawn = dashboard.page.evaluate(lines)
    for selector, text in zip(watched, before, strict=True):
        dashboard.wait_until(f"document.querySelector({selector!r}).innerText !== {json.dumps(text)}")
    dashboard.wait_until(f"{lines}.every((line, stage) => line !== {json.dumps(drawn)}[stage])")
    for stage in range(3):
        widths = dashboard.card(stage).locator(".bar i").evaluate_all("bars => bars.map(bar => bar.offsetWidth)")
        assert max(widths) > 0, widths


def test_charts_have_names_and_values_of_earlier_moments(dashboard):
    dashboard.wait_until("document.querySelector('#latency svg').getAttribute('aria-label')?.includes('ms')")
    names = dashboard.page.locator("figure svg").evaluate_all("all => all.map(svg => [svg.role, svg.ariaLabel])")
    assert len(names) == 3 + 2 * 3
    for role, name in names:
        assert role == "img"
        assert "last 5 min, now." in name
    dashboard.wait_until("document.querySelector('#overview .line.running').getAttribute('d').split('L').length > 5")
    dashboard.page.focus("#cursor")
    for _ in range(3):
        dashboard.page.keyboard.press("ArrowLeft")
    assert dashboard.text("#cursor-time").startswith("6 s ago")
    assert "6 s ago" in dashboard.page.locator("figure svg").first.get_attribute("aria-label")
    assert dashboard.page.locator("#overview svg line.cursor").first.get_attribute("visibility") == "visible"
    box = dashboard.page.locator("#overview svg").first.bounding_box()
    dashboard.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 40)
    assert "2 min" in dashboard.text("#cursor-time")
    dashboard.page.mouse.move(0, 0)
    assert dashboard.text("#cursor-time").startswith("6 s ago")
    dashboard.page.click("#values summary")
    dashboard.wait_until("document.querySelector('#values th')")  # it is filled when it opens
    head = dashboard.page.locator("#values th").all_inner_texts()
    assert head[:2] == ["Seconds ago", "Generated tok/s"]
    assert "Stage 2 p95" in head
    assert len(dashboard.page.locator("#values tbody tr").first.locator("td").all_inner_texts()) == len(head)


def test_the_keyboard_reaches_every_control(dashboard):
    reached = []
    for _ in range(9):
        dashboard.page.keyboard.press("Tab")
        reached.append(dashboard.page.evaluate("document.activeElement.id || document.activeElement.className"))
    names = ["skip", "", "cursor", "pause", "trace", "", "scroll panel"]
    assert [name for name in reached if name in names][: len(names)] == names, reached
    dashboard.page.focus("#ranges input:checked")
    dashboard.page.keyboard.press("ArrowRight")
    dashboard.wait_until("document.querySelector('#overview svg').ariaLabel.includes('last 15 min')")
    dashboard.page.focus("#pause")
    dashboard.page.keyboard.press("Space")
    assert dashboard.text("#feed").startswith("paused, numbers of")
    uptime = dashboard.text("#uptime")
    dashboard.page.wait_for_timeout(2500)
    assert dashboard.text("#uptime") == uptime
    dashboard.page.keyboard.press("Space")
    dashboard.wait_for_live()
    dashboard.wait_until(f"document.getElementById('uptime').textContent !== {uptime!r}")


@pytest.mark.parametrize("stages", [3, 16])
def test_nothing_is_wider_than_the_window(dashboard, stages):
    dashboard.page.route(STATE, lambda route: answer(route, lambda state: repeated(state, stages)))
    for width in (360, 390, 768, 1024, 1440):
        dashboard.page.set_viewport_size({"width": width, "height": 800})
        dashboard.wait_until(f"document.querySelectorAll('.stage').length === {stages}")
        dashboard.wait_until("document.querySelector('#latency svg text')?.textContent.includes('ms')")
        assert dashboard.overflow() == 0, width
    dashboard.page.unroute_all(behavior="ignoreErrors")


def test_a_stage_that_takes_longer_than_the_others_stands_out(dashboard):
    def slowed(state):
        for stage in state["cluster"]["stages"]:
            stage["decode_p50"] = stage["decode_p95"] = 0.06 if stage["stage"] == 1 else 0.02
        return state

    dashboard.page.route(STATE, lambda route: answer(route, slowed))
    dashboard.page.wait_for_selector(".stage:nth-child(2) .card[data-state=slow]")
    assert "3.0 times the others'" in dashboard.card(1).inner_text()
    assert [dashboard.card(stage).get_attribute("data-state") for stage in (0, 2)] == ["ready", "ready"]
    assert dashboard.text("#stage-count") == "3 stages, 1 slow"
    dashboard.page.unroute_all(behavior="ignoreErrors")


def test_a_stage_that_says_nothing_is_not_shown_as_ready(dashboard, cluster):
    worker = cluster.pids()[2]
    os.kill(worker, signal.SIGSTOP)
    try:
        dashboard.page.wait_for_selector(".stage:nth-child(3) .card[data-state=silent]", timeout=8000)
        assert "no heartbeat for" in dashboard.card(2).inner_text()
    finally:
        os.kill(worker, signal.SIGCONT)
    dashboard.wait_until("/ready|slow/.test(document.querySelectorAll('.stage .card')[2].dataset.state)")


def test_the_trace_is_saved_as_a_file(dashboard):
    with dashboard.page.expect_download() as download:
        dashboard.page.click("#trace")
    trace = json.loads(download.value.path().read_text())
    assert {event["ph"] for event in trace["traceEvents"]} >= {"X"}
    assert download.value.suggested_filename.endswith(".json")
    dashboard.wait_until("document.getElementById('trace').textContent === 'Save trace'")


def test_numbers_without_a_connection_are_not_shown_as_live(dashboard):
    dashboard.context.set_offline(True)
    dashboard.page.wait_for_selector('body[data-feed="lost"]', timeout=5000)
    assert "cannot be reached" in dashboard.text("#trouble")
    assert "lost" in dashboard.page.locator("#announcement").text_content()
    dashboard.wait_until("Number(getComputedStyle(document.getElementById('main')).opacity) < 0.6")
    dashboard.context.set_offline(False)
    dashboard.wait_for_live()
    assert dashboard.page.locator("#trouble").is_hidden()
    assert all("ERR_INTERNET_DISCONNECTED" in error for error in dashboard.errors)
    dashboard.errors.clear()


def test_a_hidden_page_does_not_ask(dashboard):
    hide = "Object.defineProperty(document, 'hidden', {configurable: true, value: %s});"
    tell = "document.dispatchEvent(new Event('visibilitychange'))"
    dashboard.page.evaluate(hide % "true" + tell)
    dashboard.page.wait_for_timeout(200)
    count = len(dashboard.fetched)
    dashboard.page.wait_for_timeout(2500)
    assert len(dashboard.fetched) == count
    dashboard.page.evaluate(hide % "false" + tell)
    dashboard.wait_for_live()
    assert len(dashboard.fetched) > count


def test_a_killed_stage_is_down_and_comes_back(browser, cluster):
    os.kill(cluster.pids()[1], signal.SIGKILL)  # the first restart comes at once, the second one after four seconds
    cluster.wait_until_ready()
    dashboard = Dashboard(browser, cluster.url, key=KEY)
    dashboard.wait_until("document.querySelector('#state').dataset.state === 'ready'")
    restarts = cluster.cluster()["stages"][1]["restarts"]
    os.kill(cluster.pids()[1], signal.SIGKILL)
    killed = time.monotonic()
    dashboard.page.wait_for_selector(".stage:nth-child(2) .card[data-state=down]", timeout=5000)
    seconds = time.monotonic() - killed
    assert seconds < 5
    assert "SIGKILL" in dashboard.card(1).inner_text()
    assert "stage 1" in dashboard.text("#problem")
    assert "Stage 1 is down" in dashboard.page.locator("#announcement").text_content()
    assert "stage 1 down" in dashboard.page.title()
    dashboard.screenshot("down")
    dashboard.wait_until(
        "[...document.querySelectorAll('.stage .card')].every(card => /ready|slow/.test(card.dataset.state))"
    )
    assert f"{restarts + 1} restarts" in dashboard.card(1).inner_text()
    assert dashboard.page.locator("#problem").is_hidden()
    dashboard.wait_until("Number(document.getElementById('generated').textContent) > 0")
    dashboard.close()


@pytest.mark.parametrize(
    ("name", "size", "scheme", "ground"),
    [
        ("desktop", DESKTOP, "light", "rgb(244, 246, 248)"),
        ("dark", DESKTOP, "dark", "rgb(14, 19, 24)"),
        ("phone", PHONE, "light", "rgb(244, 246, 248)"),
    ],
)
def test_screenshots(browser, cluster, name, size, scheme, ground):
    dashboard = Dashboard(browser, cluster.url, key=KEY, size=size, scheme=scheme)
    dashboard.wait_for_live()
    dashboard.wait_until("document.querySelector('#overview .line.generated').getAttribute('d')?.length > 20")
    assert dashboard.page.evaluate("getComputedStyle(document.body).backgroundColor") == ground
    dashboard.page.locator("#key-form").evaluate("form => { if (!form.hidden) throw new Error('the form is shown'); }")
    dashboard.screenshot(name, whole=name == "phone")
    dashboard.close()


def answer(route, change):
    """Gives the page the server's answer, changed."""
    response = route.fetch()
    route.fulfill(response=response, json=change(response.json()))


def repeated(state, stages):
    """The state of a cluster of `stages` stages, made of the ones there are."""
    for part in (state["cluster"], state["history"]):
        part["stages"] = [part["stages"][number % len(part["stages"])] for number in range(stages) if part["stages"]]
    state["cluster"]["stages"] = [stage | {"stage": number} for number, stage in enumerate(state["cluster"]["stages"])]
    return state
