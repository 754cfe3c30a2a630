"""A checkpoint in a directory: what it holds, and whether that is a model that can be served; no MLX.

Files: `config.json`, `generation_config.json` (optional) and the safetensors files with their index. Only headers are
read here.
"""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from msgspec.structs import replace

from worker.checkpoint.config import read_eos_token_ids, read_spec
from worker.checkpoint.fields import read_json
from worker.checkpoint.packing import read_packing
from worker.checkpoint.quantization import Quantization
from worker.checkpoint.shards import CONVERT, Shards
from worker.checkpoint.tensors import MTP_PREFIX, PREFIXES, Located, embedding_part, head_parts, layer_parts, locate
from worker.errors import CheckpointError, ConfigError
from worker.spec import ModelSpec


class Checkpoint:
    """The checkpoint in `directory`; `mtp_tensors` counts those for multi-token prediction, which are not used yet.

    Raises CheckpointError, naming the file and the key or tensor, for whatever is wrong with it: the configuration
    here, the tensors in `check`.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        if os.path.isfile(directory):
            raise CheckpointError(f"{directory}: is a file; name its directory")
        if not os.path.isdir(directory):  # unlike Path.is_dir, false also for a name that is too long
            raise CheckpointError(
                f"{directory}: no such directory; a model of the hub is named owner/name or owner/name@revision"
            )
        self.config = read_json(directory / "config.json")
        self.spec = self._read_spec()
        self._refuse_foreign_quantization()
        self.shards = Shards(directory)
        names = self.shards.files
        self.prefix = next((p for p in PREFIXES if any(name.startswith(p) for name in names)), PREFIXES[0])
        self.mtp_tensors = sum(name.startswith(MTP_PREFIX) for name in names)

    def parts(self, first: int, end: int) -> Iterator[tuple[int | None, Located]]:
        """The parts of a stage: of layers [first, end) with the layer's index, others with None.

        The embedding belongs to the first layer's stage, norm and head to that of the last one.
        """
        shards = self.shards
        if first == 0:
            yield None, locate(embedding_part(self.spec, self.prefix), shards.files, shards.where)
        for index in range(first, end):
            for part in layer_parts(self.spec, index, self.prefix):
                yield index, locate(part, shards.files, shards.where)
        if end == len(self.spec.layers):
            for part in head_parts(self.spec, self.prefix):
                yield None, locate(part, shards.files, shards.where)

    def files_of(self, first: int, end: int) -> list[str]:
        """The safetensors files that the stage of layers [first, end) needs."""
        return sorted({self.shards.files[name] for _, located in self.parts(first, end) for name in located.names})

    def packing(self, located: Located) -> Quantization | None:
        """How the part is packed, None if it is dense; CheckpointError unless shapes and dtypes fit."""
        return read_packing(self.shards, located, self.config.get("quantization") or {})

    def check_names(self, quantize: Quantization | None = None) -> None:
        """Every tensor is there and there is none too many. Opens no safetensors file if there is an index.

        Raises ConfigError if `quantize` meets a checkpoint that is quantised already.
        """
        parts = self._all_parts()
        used = {name for located in parts for name in located.names}
        for name in self.shards.files:
            if name not in used and not name.startswith(MTP_PREFIX):
                raise CheckpointError(f"{self.shards.path(name)}: tensor {name} {_surplus(name, self.spec)}")
        packed = next((located.scales for located in parts if located.scales), None)
        if quantize and packed:
            raise ConfigError(
                f"--quantize {quantize}: {self.directory} is quantised already (tensor {packed}); omit the option",
                param="quantize",
            )

    def check(self, quantize: Quantization | None = None) -> None:
        """`check_names`, and every file is whole, every tensor of the right shape and dtype."""
        self.check_names(quantize)
        self.shards.check()
        norm: str | None = None
        for located in self._all_parts():
            self.packing(located)
            if located.part.key in ("norm", "final_norm"):
                # hidden states have one dtype from the first layer to the last
                norm = norm or located.weights[0]
                self.shards.expect(located.weights[0], located.part.shape, (self.shards.info(norm).dtype,))

    def _all_parts(self) -> list[Located]:
        return [located for _, located in self.parts(0, len(self.spec.layers))]

    def _read_spec(self) -> ModelSpec:
        path = self.directory / "config.json"
        spec = read_spec(self.config, str(path))
        if not isinstance(self.config.get("quantization"), dict | None):
            raise CheckpointError(f"{path}: quantization is {self.config['quantization']!r}, expected an object")
        generation = self.directory / "generation_config.json"
        if generation.exists() and (settings := read_json(generation)).get("eos_token_id") is not None:
            spec = replace(spec, eos_token_ids=read_eos_token_ids(settings, str(generation), spec.vocab_size))
        return spec

    def _refuse_foreign_quantization(self) -> None:
        """Formats of other engines: fp8, modelopt, compressed-tensors, gptq, ..."""
        if self.config.get("quantization"):
            return
        file, settings = "config.json", self.config.get("quantization_config")
        if not settings and (self.directory / "hf_quant_config.json").exists():
            file, settings = "hf_quant_config.json", {"quant_method": "modelopt"}
        if settings:
            method = settings.get("quant_method") if isinstance(settings, dict) else settings
            raise CheckpointError(
                f"{self.directory / file}: weights quantised by quant_method {method!r} cannot be served; {CONVERT}"
            )


def _surplus(name: str, spec: ModelSpec) -> str:
    if name.endswith(".global_scale"):
        return "is a global scale, which is not supported; convert the model without one"
    layers = ", ".join(f"{count} {kind}" for kind, count in Counter(spec.pattern).items())
    return f"is unknown to a model of {len(spec.layers)} layers ({layers}); do weights and config.json belong together?"
