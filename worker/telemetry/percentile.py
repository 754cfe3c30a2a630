"""Percentiles as values that occurred, without interpolation."""

import math
from collections.abc import Sequence


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of them do not exceed; 0 if there are none."""
    return sorted(values)[max(math.ceil(share * len(values)), 1) - 1] if values else 0.0
