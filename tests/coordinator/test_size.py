import pytest

from coordinator.size import size


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (999_499, "999 kB"), (999_500, "1 MB"), (21_345_000_000, "21.3 GB")],
)
def test_size(count: int, text: str) -> None:
    assert size(count) == text
