"""What files hold, as part of a point's identity: their content, not their place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from wattcount.errors import NotStartedError

WEIGHT_FILES = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf")

VERSION = "2"
"""How weights are sampled; it begins each fingerprint. Version 1, which had none, knew the files' names and sizes only."""
PLACES = 16
PLACE_BYTES = 2**20
"""A weight file is read at this many places, evenly from its beginning to its end."""
TENSOR_BYTES = 2**14
"""Read from the middle of each tensor of a safetensors file."""
MAX_HEADER_BYTES = 100 * 2**20
"""The largest header that the safetensors format allows."""


def model_fingerprint(folder: Path) -> str:
    """`2:` and SHA-256 of a model's config.json and of samples of its weights.

    Of each weight file: name, size, 1 MiB from each of 16 places; of a safetensors file also its header and 16 KiB from
    the middle of each tensor. So two fine-tunes of one shape differ, and 140 GB take a second or two; a change to a
    part of a tensor that is not read is not seen. Raises `NotStartedError` where there are no weights or they cannot be
    read.
    """
    files = sorted({file for pattern in WEIGHT_FILES for file in folder.glob(pattern) if file.is_file()})
    if not files:
        raise NotStartedError(
            f"model.path: {folder} has no weight files ({', '.join(WEIGHT_FILES)}); use model.weights=random "
            "for the shape in its config.json"
        )
    try:
        digest = hashlib.sha256((folder / "config.json").read_bytes())
        for file in files:
            size = file.stat().st_size
            digest.update(f"\0{file.name}\0{size}\0".encode())
            with file.open("rb") as stream:
                for place, length in _samples(stream, size):
                    stream.seek(place)
                    digest.update(stream.read(length))
    except OSError as error:
        raise NotStartedError(f"model.path: cannot read {error.filename}: {error.strerror}") from None
    return f"{VERSION}:{digest.hexdigest()}"


def _samples(stream: BinaryIO, size: int) -> Iterator[tuple[int, int]]:
    """Where to read, and how many bytes."""
    if size <= PLACES * PLACE_BYTES:
        yield 0, size
        return
    yield from ((number * (size - PLACE_BYTES) // (PLACES - 1), PLACE_BYTES) for number in range(PLACES))
    yield from _tensor_samples(stream, size)


def _tensor_samples(stream: BinaryIO, size: int) -> Iterator[tuple[int, int]]:
    """Header and tensors of a safetensors file; nothing for another one."""
    stream.seek(0)
    length = int.from_bytes(stream.read(8), "little")
    if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
        return
    try:
        header = json.loads(stream.read(length))
        spans = [entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"]
        middles = sorted((int(begin) + int(end)) // 2 for begin, end in spans)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return
    yield 0, 8 + length
    for middle in middles:
        yield max(0, 8 + length + middle - TENSOR_BYTES // 2), TENSOR_BYTES


def file_sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
