"""The position rule: next rows are applied, old ones dropped, anything else refused."""

import pytest

from worker.links.ledger import Ledger
from worker.protocol import Segment


@pytest.fixture
def ledger():
    ledger = Ledger()
    ledger.open(1)
    ledger.open(2)
    ledger.advance([Segment(1, 0, 3, True)])
    ledger.advance([Segment(1, 3, 1, True)])
    return ledger


@pytest.mark.parametrize(
    ("segments", "verdict"),
    [
        ([(1, 4, 1), (2, 0, 5)], "apply"),
        ([(1, 3, 1)], "duplicate"),
        ([(1, 0, 3)], "duplicate"),
        ([(1, 5, 1)], "gap"),
        ([(1, 3, 1), (2, 1, 1)], "gap"),
        ([(1, 3, 1), (2, 0, 1)], "gap"),
        ([(1, 4, 1), (3, 0, 1)], "unknown"),
    ],
)
def test_verdicts(ledger, segments, verdict):
    assert ledger.judge([Segment(*segment, True) for segment in segments]) == verdict


def test_a_closed_request_is_unknown(ledger):
    ledger.close(1)
    assert ledger.judge([Segment(1, 4, 1, True)]) == "unknown"
