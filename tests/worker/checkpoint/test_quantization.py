import pytest

from worker.checkpoint.quantization import parse_quantization
from worker.errors import ConfigError


@pytest.mark.parametrize("text", ["2:32", "3:64", "8:128", "mxfp4", "nvfp4", "mxfp8"])
def test_quantization_reads_what_it_writes(text: str) -> None:
    assert str(parse_quantization(text)) == text


@pytest.mark.parametrize("text", ["", "8", "8:", ":32", "7:32", "8:16", "8:32:1", "fp8", "-8:32", "\u0668:32"])
def test_unknown_quantization_is_refused_with_what_is_known(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected BITS:GROUP with bits 2, 3, 4, 5, 6, 8 and group 32, 64, 128"):
        parse_quantization(text)
