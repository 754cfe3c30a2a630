"""When an agent hails, beats and takes the coordinator for lost."""

from worker.agent.presence import Due, Presence


def test_it_hails_while_there_is_a_connection_and_no_answer() -> None:
    presence = Presence(0)
    assert presence.due(1) is Due.NOTHING
    presence.connected = True
    assert [presence.due(now) for now in range(2, 1000)] == [Due.HAIL] * 998


def test_it_beats_until_nothing_was_heard_for_too_long() -> None:
    presence = Presence(0)
    presence.heard(1, silence=3)
    assert [presence.due(now) for now in (2, 3, 4, 5)] == [Due.BEAT, Due.BEAT, Due.BEAT, Due.LOST]
    presence.heard(5.5)
    assert presence.due(6) is Due.BEAT


def test_a_lost_connection_alone_is_no_loss() -> None:
    presence = Presence(0)
    presence.connected = True
    presence.heard(0, silence=3)
    presence.connected = False
    assert presence.due(1) is Due.BEAT


def test_after_a_pause_of_its_own_it_listens_first() -> None:
    presence = Presence(0)
    presence.heard(0, silence=3)
    assert presence.due(1) is Due.BEAT
    assert presence.due(3600) is Due.BEAT
    assert [presence.due(now) for now in (3601, 3602, 3603, 3604)] == [Due.BEAT, Due.BEAT, Due.BEAT, Due.LOST]


def test_a_new_survey_sets_a_new_patience() -> None:
    presence = Presence(0)
    presence.heard(0, silence=100)
    presence.heard(0, silence=1)
    assert [presence.due(now) for now in (1, 2)] == [Due.BEAT, Due.LOST]
