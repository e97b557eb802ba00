"""Data files: weights that lie outside a program, named by their content."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

DATA_ALIGNMENT = 16  # of a constant in a data file, as XNNPACK wants it


def merge_data(files: Sequence[Path], out: Path) -> None:
    """One data file with everything that `files` hold, each constant once: they are named by their content."""
    from executorch.exir._serialize.data_serializer import DataEntry, DataPayload
    from executorch.extension.flat_tensor.serialize.serialize import (
        FlatTensorHeader,
        FlatTensorSerializer,
        _deserialize_to_flat_tensor,
    )

    buffers: list[bytes] = []
    named: dict[str, DataEntry] = {}
    for path in files:
        with path.open("rb") as file:  # its index alone, then the constants that are new: files are as large as the model
            header = FlatTensorHeader.from_bytes(file.read(8 + FlatTensorHeader.EXPECTED_LENGTH)[8:])
            file.seek(0)
            index = _deserialize_to_flat_tensor(file.read(header.flatbuffer_offset + header.flatbuffer_size))
            for entry in index.named_data:
                if entry.key not in named:
                    named[entry.key] = DataEntry(len(buffers), DATA_ALIGNMENT, entry.tensor_layout)
                    segment = index.segments[entry.segment_index]
                    file.seek(header.segment_base_offset + segment.offset)
                    buffers.append(file.read(segment.size))
    with out.open("wb") as target:
        FlatTensorSerializer().serialize(DataPayload(buffers, named)).write_to_file(target)
