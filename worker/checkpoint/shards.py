"""The safetensors files of a checkpoint: which tensor is in which file, its shape and dtype; no MLX, no data read.

Files: `model*.safetensors`, and `model.safetensors.index.json` (optional; tensor -> file).
"""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from worker.checkpoint.fields import read_json
from worker.checkpoint.headers import TensorInfo, read_header
from worker.errors import CheckpointError

INDEX = "model.safetensors.index.json"
FLOATS = ("BF16", "F16", "F32")
CONVERT = "convert the BF16 model with mlx_lm.convert, or serve it with --quantize (8:32, nvfp4, ...)"


class Shards:
    """The tensors in `directory`.

    `files` maps each tensor to its file; `where` names what says so. With an index no other file is opened before it
    is needed. Raises CheckpointError, naming the file and the tensor.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.header = cache(lambda file: read_header(directory / file))
        index = directory / INDEX
        self.where = str(index if index.exists() else directory)
        self.files: Mapping[str, str] = _read_index(index) if index.exists() else dict(self._scan())
        if not self.files:
            raise CheckpointError(f"{directory}: no model*.safetensors, and no other format can be read")

    def path(self, name: str) -> Path:
        """The file of tensor `name`."""
        return self.directory / self.files[name]

    def info(self, name: str) -> TensorInfo:
        """Dtype, shape and size of tensor `name`."""
        info = self.header(self.files[name]).get(name)
        if info is None:
            raise CheckpointError(f"{self.path(name)}: tensor {name} is missing, {self.where} says that it is here")
        return info

    def expect(self, name: str, shape: tuple[int, ...], dtypes: tuple[str, ...]) -> None:
        """CheckpointError unless tensor `name` is of this shape and one of the dtypes."""
        info = self.info(name)
        if info.dtype not in dtypes:
            raise self.wrong(name, f"expected {' or '.join(dtypes)}; {CONVERT}")
        if info.shape != shape:
            raise self.wrong(name, f"config.json asks for {list(shape)}; do weights and config belong together?")

    def wrong(self, name: str, problem: str) -> CheckpointError:
        """An error about tensor `name` as it is stored."""
        info = self.info(name)
        return CheckpointError(f"{self.path(name)}: tensor {name} is {info.dtype} {list(info.shape)}, {problem}")

    def check(self) -> None:
        """Every file is whole and holds what the index says, no more and no less."""
        for file in dict.fromkeys(self.files.values()):
            for name in self.header(file):
                if self.files.get(name) != file:
                    raise CheckpointError(f"{self.directory / file}: tensor {name} is not in {self.where}")
        for name in self.files:
            self.info(name)

    def _scan(self) -> Iterator[tuple[str, str]]:
        files: dict[str, str] = {}
        for path in sorted(self.directory.glob("model*.safetensors")):
            for name in self.header(path.name):
                if name in files:
                    raise CheckpointError(f"{path}: tensor {name} is in {files[name]} too, and there is no {INDEX}")
                files[name] = path.name
        yield from files.items()


def _read_index(path: Path) -> dict[str, str]:
    files = read_json(path).get("weight_map")
    if not isinstance(files, dict):
        raise CheckpointError(f"{path}: weight_map is missing, expected an object of tensor names and files")
    for name, file in files.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise CheckpointError(f"{path}: weight_map of {name} is {file!r}, expected a file of the same directory")
    return files
