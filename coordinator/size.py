"""A number of bytes for people."""


def size(count: int) -> str:
    """`count` bytes with three digits and a decimal unit, for example `21.3 GB`."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"
