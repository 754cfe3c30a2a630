"""The position rule: next rows are applied, earlier ones answered again, later ones refused."""

import pytest

from worker.ledger import Ledger
from worker.protocol import Segment


@pytest.fixture
def ledger():
    ledger = Ledger[str]()
    ledger.open(1)
    ledger.open(2)
    for first, count, output in [(0, 3, "prompt"), (3, 1, "step")]:
        segments = (Segment(1, first, count, True),)
        ledger.advance(segments)
        ledger.remember(segments, output)
    return ledger


@pytest.mark.parametrize(
    ("segments", "verdict"),
    [
        ([(1, 4, 1), (2, 0, 5)], "apply"),
        ([(1, 3, 1)], "duplicate"),
        ([(1, 0, 3)], "duplicate"),
        ([(1, 5, 1)], "gap"),
        ([(1, 3, 1), (2, 1, 1)], "gap"),
        ([(1, 3, 1), (2, 0, 1)], "duplicate"),
        ([(1, 4, 1), (3, 0, 1)], "unknown"),
    ],
)
def test_verdicts(ledger, segments, verdict):
    assert ledger.judge([Segment(*segment, True) for segment in segments]) == verdict


def test_only_the_last_output_is_remembered_and_only_while_its_requests_live(ledger):
    assert ledger.recall((Segment(1, 3, 1, True),)) == "step"
    assert ledger.recall((Segment(1, 0, 3, True),)) is None
    ledger.close(1)
    assert ledger.recall((Segment(1, 3, 1, True),)) is None
    assert ledger.judge([Segment(1, 4, 1, True)]) == "unknown"
