"""Starting, linking, losing and finding stages again, as values."""

import pytest

from coordinator.cluster import Cluster
from coordinator.seat import Seat
from worker.errors import ClusterError
from worker.protocol import (
    PROTOCOL_VERSION,
    Assign,
    Connect,
    Heartbeat,
    Hello,
    Linked,
    Listen,
    Listening,
    Loaded,
    Loading,
)


@pytest.fixture
def cluster():
    cluster = Cluster(model="tiny", source="/models/tiny", layers=[(0, 2), (2, 5)], pattern="MEM*E", quantize=None)
    for stage in range(2):
        cluster.starting(stage, f"life-{stage}", now=0.0)
    return cluster


def hello(stage, protocol=PROTOCOL_VERSION):
    return Hello(protocol=protocol, pid=100 + stage, host="mac", backend="cpu")


def heartbeat(busy):
    return Heartbeat(
        epoch=1,
        steps=3,
        busy_seconds=busy,
        step_seconds=0.001,
        memory_bytes=9,
        state_bytes=4,
        sequences=1,
        stale_messages=0,
        duplicate_messages=0,
    )


def tell(cluster, stage, message, now=0.0):
    return cluster.received(stage, message, now)


def load(cluster, *stages):
    orders = []
    for stage in stages:
        tell(cluster, stage, hello(stage))
        orders += tell(cluster, stage, Loaded(fused_layers=0))
    return orders


def link(cluster):
    orders = []
    for stage in range(2):
        orders += tell(cluster, stage, Listening(epoch=cluster.epoch, endpoint=f"ipc://{stage}"))
    for stage in range(2):
        tell(cluster, stage, Linked(epoch=cluster.epoch))
    return orders


def test_from_start_to_ready(cluster):
    assert tell(cluster, 0, hello(0)) == [
        (0, Assign(stage=0, stages=2, model="/models/tiny", first=0, end=2, quantize=None))
    ]
    tell(cluster, 0, Loading(loaded_bytes=5, total_bytes=10))
    assert (cluster.view(0.0, running=0, waiting=0).stages[0].loaded_bytes, cluster.is_ready) == (5, False)
    assert "stage 1 (layers 2-4) is starting" in (cluster.problem() or "")
    assert load(cluster, 0, 1) == [(0, Listen(epoch=1)), (1, Listen(epoch=1))]
    assert link(cluster) == [(0, Connect(epoch=1, endpoint="ipc://1")), (1, Connect(epoch=1, endpoint="ipc://0"))]
    assert cluster.problem() is None
    view = cluster.view(0.0, running=0, waiting=0)
    assert (view.state, [(s.layers, s.pattern, s.state) for s in view.stages]) == (
        "ready",
        [((0, 2), "ME", "ready"), ((2, 5), "M*E", "ready")],
    )


def test_a_cluster_of_one_stage_has_no_link():
    cluster = Cluster(model="tiny", source="tiny", layers=[(0, 1)], pattern="M", quantize=None)
    cluster.starting(0, "life", now=0.0)
    load(cluster, 0)
    assert tell(cluster, 0, Listening(epoch=1, endpoint="ipc://0")) == [(0, Connect(epoch=1, endpoint=None))]


def test_a_lost_stage_makes_the_others_forget_and_all_link_anew(cluster):
    load(cluster, 0, 1)
    link(cluster)
    assert cluster.lost(1, "killed", 0.5) == [(0, Listen(epoch=2))]
    assert cluster.problem() == "stage 0 (layers 0-1, mac) is linking; stage 1 (layers 2-4, mac) is down: killed"
    for stage in range(2):
        cluster.hindered(stage, "another MLX")
    assert cluster.problem() == "stage 0 (layers 0-1, mac) is linking; stage 1 (layers 2-4, mac) is down: another MLX"
    assert cluster.view(0.0, running=0, waiting=0).state == "degraded"
    tell(cluster, 0, Listening(epoch=2, endpoint="ipc://0"))
    cluster.starting(1, "second life", now=1.0)
    assert load(cluster, 1) == [(1, Listen(epoch=2))]
    tell(cluster, 1, Listening(epoch=2, endpoint="ipc://1b"))
    for stage in range(2):
        tell(cluster, stage, Linked(epoch=2))
    view = cluster.view(0.0, running=0, waiting=0)
    assert (view.state, view.epoch, view.stages[1].restarts, view.stages[1].detail) == ("ready", 2, 1, "")


def test_words_of_an_old_epoch_do_not_count(cluster):
    load(cluster, 0, 1)
    cluster.lost(1, "killed", 0.5)
    cluster.starting(1, "second life", now=1.0)
    assert cluster.session(1) == "second life"
    assert tell(cluster, 0, Listening(epoch=1, endpoint="ipc://old")) == []
    assert cluster.view(0.0, running=0, waiting=0).stages[1].state == "starting"


def test_another_protocol_version_is_refused_by_name(cluster):
    with pytest.raises(ClusterError, match=f"stage 1 on mac speaks protocol 1, this coordinator {PROTOCOL_VERSION}"):
        tell(cluster, 1, hello(1, protocol=1))


def test_an_order_to_link_that_is_not_answered_is_followed_by_another_epoch(cluster):
    load(cluster, 0, 1)
    assert cluster.relink(5.0) == []
    # the order to stage 1 is lost
    tell(cluster, 0, Listening(epoch=1, endpoint="ipc://0"), now=4.0)
    assert cluster.relink(5.1) == [(0, Listen(epoch=2)), (1, Listen(epoch=2))]
    assert cluster.relink(6.0) == []
    # and now the order to connect
    for stage in (0, 1):
        tell(cluster, stage, Listening(epoch=2, endpoint=f"ipc://{stage}"), now=7.0)
    tell(cluster, 0, Linked(epoch=2), now=7.0)
    assert cluster.relink(36.9) == []  # twice as patient: it may have been too slow
    assert cluster.relink(37.1) == [(0, Listen(epoch=3)), (1, Listen(epoch=3))]
    for stage in (0, 1):
        tell(cluster, stage, Listening(epoch=3, endpoint=f"ipc://{stage}"), now=38.0)
    for stage in (0, 1):
        tell(cluster, stage, Linked(epoch=3), now=38.0)
    assert cluster.relink(1000.0) == []


def test_what_is_said_twice_changes_nothing(cluster):
    load(cluster, 0, 1)
    link(cluster)
    assert tell(cluster, 1, Loaded(fused_layers=0)) == []
    assert cluster.is_ready


def test_stages_on_other_hosts_listen_for_their_neighbours_key_alone():
    seats = [Seat("north", "N"), Seat("north", "N"), Seat("south", "S")]
    cluster = Cluster(
        model="tiny", source="tiny", layers=[(0, 1), (1, 2), (2, 3)], pattern="ME*", quantize=None, seats=seats
    )
    listens = []
    for stage in range(3):
        cluster.starting(stage, f"life-{stage}", now=0.0)
        tell(cluster, stage, hello(stage))
        listens += tell(cluster, stage, Loaded(fused_layers=0))
    assert listens == [
        (0, Listen(epoch=1, remote=True, peer="S")),
        (1, Listen(epoch=1)),
        (2, Listen(epoch=1, remote=True, peer="N")),
    ]
    orders = [tell(cluster, stage, Listening(epoch=1, endpoint=f"at {stage}")) for stage in range(3)][-1]
    assert orders == [
        (0, Connect(epoch=1, endpoint="at 1")),
        (1, Connect(epoch=1, endpoint="at 2", server="S")),
        (2, Connect(epoch=1, endpoint="at 0", server="N")),
    ]
    assert cluster.describe(2) == "stage 2 (layers 2-2, south)"


def test_who_is_overdue(cluster):
    limits = {"silence": 10.0, "loading": 60.0, "stall": 100.0}
    load(cluster, 0, 1)
    link(cluster)
    for stage in range(2):
        tell(cluster, stage, heartbeat(busy=0.0), now=5.0)
    assert cluster.overdue(14.0, **limits) == []
    tell(cluster, 1, heartbeat(busy=101.0), now=15.0)
    assert [(stage, why.split(" for ")[0]) for stage, why in cluster.overdue(16.0, **limits)] == [
        (0, "no sign of life"),
        (1, "in one step"),
    ]


def test_loading_without_progress_is_overdue_but_fetching_is_not(cluster):
    limits = {"silence": 1000.0, "loading": 60.0, "stall": 100.0}
    tell(cluster, 0, hello(0), now=0.0)
    tell(cluster, 1, hello(1), now=0.0)
    tell(cluster, 1, Loading(loaded_bytes=1, total_bytes=9), now=10.0)
    assert cluster.overdue(69.0, **limits) == []
    assert [stage for stage, _ in cluster.overdue(71.0, **limits)] == [1]
