"""Surveying a checkpoint from its tensors, without loading the model."""

import json
import struct
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from kq_hf.bitsandbytes_int8 import SCALES
from kq_nn import CoverageReport, SkippedModule
from kq_nn.stored import STORED_TYPES, describe_header

_HEADER = ".weight_format"
_BITSANDBYTES = (0,)
"""Its `weight_format` in int8 has one element."""


@dataclass(frozen=True)
class CheckpointReport:
    """What a checkpoint holds.

    Attributes:
        coverage: What share is quantized. The size before quantization is counted in the dtype
            that most of the other parameters have.
        formats: Number of quantized layers of each format.
        dtypes: Bytes of the tensors that are not quantized, by dtype.
        file_bytes: Size of the files.
        files: Their number.
    """

    coverage: CoverageReport
    formats: dict[str, int]
    dtypes: dict[str, int]
    file_bytes: int
    files: int

    @property
    def bits_per_parameter(self) -> float:
        """Bits of all tensors divided by the parameters they stand for; 0 without any."""
        return 8 * self.coverage.bytes_after / max(self.coverage.total_parameters, 1)

    def to_dict(self) -> dict[str, Any]:
        """All figures as JSON-serializable values."""
        return {
            **asdict(self),
            "coverage": self.coverage.to_dict(),
            "bits_per_parameter": self.bits_per_parameter,
        }


class _Stored(NamedTuple):
    """One tensor as the header of its file describes it."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int


def inspect_checkpoint(path: Path) -> CheckpointReport:
    """Surveys the safetensors files of a checkpoint; reads their headers only.

    Args:
        path: A model folder, or one safetensors file.

    Returns:
        The survey.

    Raises:
        ValueError: If there are no safetensors files, or one is damaged or incomplete.
        OSError: If a file cannot be read.
    """
    files = [path] if path.is_file() else weight_files(path)
    if not files:
        raise ValueError(f"{path} holds no safetensors files")
    tensors: dict[str, _Stored] = {}
    headers: dict[str, tuple[int, ...]] = {}
    for file in files:
        found = _read_header(file)
        tensors.update(found)
        headers.update(_read_formats(file, [name for name in found if name.endswith(_HEADER)]))
    return _report(path, files, tensors, headers)


def weight_files(folder: Path) -> list[Path]:
    """The files that `from_pretrained` reads: another layout of the same weights may lie beside."""
    if (single := folder / "model.safetensors").is_file():
        return [single]
    return sorted(folder.glob("model-*.safetensors")) or sorted(folder.glob("*.safetensors"))


def _read_header(file: Path) -> dict[str, _Stored]:
    """Names, types and sizes of the tensors in a file.

    A safetensors file begins with the length of its header, 8 bytes little-endian, and the
    header as JSON; the size of a tensor is the distance between its two offsets.
    """
    try:
        with safe_open(file, "pt"):
            pass  # the library has checked the header and the length of the file
    except SafetensorError as error:
        raise ValueError(f"{file} is not a safetensors file: {error}") from error
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    return {
        name: _Stored(
            entry["dtype"],
            tuple(entry["shape"]),
            entry["data_offsets"][1] - entry["data_offsets"][0],
        )
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _read_formats(file: Path, names: list[str]) -> dict[str, tuple[int, ...]]:
    """Content of the format tensors of a file, by the name of their layer."""
    with safe_open(file, "pt") as stream:
        return {
            name.removesuffix(_HEADER): tuple(stream.get_tensor(name).flatten().tolist())
            for name in names
        }


def _elements(stored: tuple[int, ...], header: tuple[int, ...]) -> int | None:
    """How many elements a stored weight has, or None if it is not of the header's format."""
    if header == _BITSANDBYTES:
        return prod(stored) if len(stored) == 2 else None
    if len(header) != 5:
        return None
    columns = header[4]
    if header[1] == STORED_TYPES.index("int8"):
        fits = len(stored) == 3 and stored[1:] == (columns, 1)
    else:
        fits = len(stored) == 2 and stored[1] == (columns + 1) // 2
    return stored[0] * columns if fits else None


def _format_name(header: tuple[int, ...]) -> str:
    if header == _BITSANDBYTES:
        return "bitsandbytes, int8, one scale a row"
    return describe_header(header).rpartition(", in_features")[0]


def _report(
    path: Path,
    files: list[Path],
    tensors: dict[str, _Stored],
    headers: dict[str, tuple[int, ...]],
) -> CheckpointReport:
    quantized = quantized_bytes = other_bytes = 0
    formats: Counter[str] = Counter()
    dtypes: Counter[str] = Counter()
    dense: defaultdict[str, int] = defaultdict(int)
    element_sizes: Counter[int] = Counter()
    for name, tensor in tensors.items():
        layer, _, part = name.rpartition(".")
        if layer in headers and part.startswith(("weight", SCALES)):
            quantized_bytes += tensor.nbytes
            continue
        elements = prod(tensor.shape)
        other_bytes += tensor.nbytes
        dtypes[tensor.dtype] += tensor.nbytes
        element_sizes[tensor.nbytes // max(elements, 1)] += elements
        dense[f"{layer}.{part}" if layer in headers else layer] += elements
    for layer, header in headers.items():
        weight = tensors.get(f"{layer}.weight")
        represented = None if weight is None else _elements(weight.shape, header)
        if represented is None:
            raise ValueError(f"{path}: the tensors of {layer} do not fit together")
        quantized += represented
        formats[_format_name(header)] += 1
    element_size = element_sizes.most_common(1)[0][0] if element_sizes else 0
    before = quantized * element_size
    return CheckpointReport(
        coverage=CoverageReport(
            total_parameters=quantized + sum(dense.values()),
            quantized_parameters=quantized,
            bytes_before=before + other_bytes,
            bytes_after=quantized_bytes + other_bytes,
            quantized_bytes_before=before,
            quantized_bytes_after=quantized_bytes,
            skipped=tuple(
                SkippedModule(name, "stored as it is", elements) for name, elements in dense.items()
            ),
        ),
        formats=dict(formats),
        dtypes=dict(dtypes),
        file_bytes=sum(file.stat().st_size for file in files),
        files=len(files),
    )
