"""How a quantised weight matrix is packed; no MLX."""

import re
from dataclasses import dataclass

from worker.errors import ConfigError

AFFINE_BITS = (2, 3, 4, 5, 6, 8)
AFFINE_GROUP_SIZES = (32, 64, 128)
# mode -> the one (bits, group size) that MLX packs it with
FLOAT_MODES = {"mxfp4": (4, 32), "nvfp4": (4, 16), "mxfp8": (8, 32)}


@dataclass(frozen=True, slots=True)
class Quantization:
    """How a matrix is packed: MLX's `mode` ("affine", "mxfp4", "nvfp4", "mxfp8"), bits a weight, weights a group."""

    bits: int
    group_size: int
    mode: str = "affine"

    def __str__(self) -> str:
        """The text that `parse_quantization` reads, for example `8:32` or `mxfp4`."""
        return f"{self.bits}:{self.group_size}" if self.mode == "affine" else self.mode

    @property
    def supported(self) -> bool:
        """Whether MLX has such a format."""
        if self.mode == "affine":
            return self.bits in AFFINE_BITS and self.group_size in AFFINE_GROUP_SIZES
        return FLOAT_MODES.get(self.mode) == (self.bits, self.group_size)

    def packed_bytes(self, weights: int, scale_bytes: int) -> int:
        """Bytes of so many weights, whole groups, with what each group has: a scale and a bias of `scale_bytes` each,
        or in the other modes a scale of one byte."""
        group_bytes = 2 * scale_bytes if self.mode == "affine" else 1
        return weights * self.bits // 8 + weights // self.group_size * group_bytes


def parse_quantization(text: str) -> Quantization:
    """The format that `--quantize TEXT` names: `BITS:GROUP` (affine, for example `8:32`), `mxfp4`, `nvfp4` or `mxfp8`.

    Raises ConfigError for anything else.
    """
    if text in FLOAT_MODES:
        return Quantization(*FLOAT_MODES[text], mode=text)
    if match := re.fullmatch(r"([0-9]):([0-9]{2,3})", text):
        quantization = Quantization(int(match[1]), int(match[2]))
        if quantization.supported:
            return quantization
    raise ConfigError(
        f"--quantize {text!r}: expected BITS:GROUP with bits {_list(AFFINE_BITS)} and group {_list(AFFINE_GROUP_SIZES)}"
        f" (for example 8:32 or 4:64), or {', '.join(FLOAT_MODES)}",
        param="quantize",
    )


def _list(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))
