from coordinator.request import Request
from coordinator.telemetry.journal import Journal
from worker.protocol import Sampling, StageTimes

TIMES = (StageTimes(0, 1, 0.1, 2, 0.2, 0.0, 0.0, 0.0, 0.0),)


def request(id: str, request_id: str = "") -> Request:
    return Request(id=id, request_id=request_id, prompt=(1, 2, 3), max_tokens=4, sampling=Sampling(), stop_tokens=())


def test_states_of_a_life() -> None:
    journal = Journal()
    journal.arrived(1, request("a"), 10.0)
    entry = journal.open(1)
    assert entry is not None
    assert entry.state == "waiting"
    entry.admitted = 11.0
    assert entry.state == "prefill"
    entry.first = entry.last = 12.0
    assert entry.state == "decode"
    assert [(each.id, each.state, each.age_seconds) for each in journal.in_flight(13.0)] == [("a", "decode", 3.0)]
    assert journal.ended("a", "stop", None, 14.0) is entry
    assert (entry.state, entry.finish, entry.since_arrival(entry.ended)) == ("ended", "stop", 4.0)
    assert journal.in_flight(15.0) == ()
    assert journal.find("a") is entry


def test_a_request_ends_once() -> None:
    journal = Journal()
    journal.arrived(1, request("a"), 0.0)
    assert journal.ended("a", "length", None, 1.0) is not None
    assert journal.ended("a", "cancelled", None, 2.0) is None
    assert journal.ended("never taken", "error", "not_ready", 2.0) is None


def test_stages_report_before_or_after_the_end() -> None:
    journal = Journal()
    for number, id in ((1, "before"), (2, "after")):
        journal.arrived(number, request(id), 0.0)
    journal.closed(1, TIMES)
    journal.ended("before", "stop", None, 1.0)
    journal.ended("after", "stop", None, 1.0)
    journal.closed(2, TIMES)
    journal.closed(3, TIMES)  # nobody knows it any more
    found = [journal.find(id) for id in ("before", "after")]
    assert [entry and entry.times for entry in found] == [TIMES, TIMES]


def test_found_by_the_clients_id_the_newest_of_those_that_share_one() -> None:
    journal = Journal()
    journal.arrived(1, request("a", "mine"), 0.0)
    journal.arrived(2, request("b", "mine"), 1.0)
    assert journal.ended("b", "stop", None, 2.0) is not None
    first = journal.open(1)
    assert first is not None
    assert first.ended is None
    found = journal.find("mine")
    assert found is not None
    assert found.id == "b"
    assert journal.find("") is None


def test_only_the_last_ones_are_kept() -> None:
    journal = Journal(kept=2)
    for number in range(5):
        journal.arrived(number, request(f"id-{number}", "same"), 0.0)
        journal.ended(f"id-{number}", "stop", None, 1.0)
    assert [entry.id for entry in journal.all()] == ["id-3", "id-4"]
    assert [journal.find(f"id-{number}") is None for number in range(5)] == [True, True, True, False, False]
    found = journal.find("same")
    assert found is not None
    assert found.id == "id-4"


def test_at_most_a_hundred_in_flight_are_listed_the_oldest() -> None:
    journal = Journal()
    for number in range(150):
        journal.arrived(number, request(f"id-{number}"), float(number))
    assert [each.id for each in journal.in_flight(200.0)] == [f"id-{number}" for number in range(100)]


def test_the_rate_leaves_out_the_first_token() -> None:
    journal = Journal()
    journal.arrived(1, request("a"), 0.0)
    entry = journal.open(1)
    assert entry is not None
    assert entry.tokens_per_second == 0.0
    entry.first, entry.last, entry.generated = 5.0, 7.0, 5
    assert entry.tokens_per_second == 2.0


def test_a_clients_name_for_its_request_never_stands_for_anothers_id() -> None:
    journal = Journal()
    journal.arrived(1, request("a"), 0.0)
    journal.arrived(2, request("b", "a"), 1.0)
    journal.arrived(3, request("c", "d"), 1.0)
    journal.arrived(4, request("d"), 2.0)
    for name, id in (("a", "a"), ("b", "b"), ("c", "c"), ("d", "d")):
        found = journal.find(name)
        assert found is not None
        assert found.id == id
    for id in "abcd":
        entry = journal.ended(id, "stop", None, 3.0)
        assert entry is not None
        assert entry.id == id
    assert journal.in_flight(4.0) == ()


def test_when_the_newest_of_a_name_is_forgotten_the_one_before_it_has_it() -> None:
    journal = Journal(kept=0)
    journal.arrived(1, request("a", "same"), 0.0)
    journal.arrived(2, request("b", "same"), 0.0)
    journal.ended("b", "stop", None, 1.0)
    assert journal.find("same") is journal.open(1) is not None
    assert journal.own("same") is None
