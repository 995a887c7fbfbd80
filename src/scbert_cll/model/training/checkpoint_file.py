"""The file of a checkpoint: what PyTorch writes, with a seal at its end.

One file says by itself whether it is whole, and of which run.

The seal is the comment that a zip archive may end with. So the file is one that :func:`torch.load`
reads, and there is nothing beside it that could be missing or older.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from scbert_cll._disk import in_place
from scbert_cll._disk.formats import digest, same
from scbert_cll.model._tensors import bits

RUN: Final = "run"  # the settings of the run, in a checkpoint
MAY_CHANGE: Final = "may_change"  # what of them a run can go on without
_NAME: Final = re.compile(r"step_([0-9]{1,18})\.ckpt")
_MARK: Final = b"scbert_cll checkpoint 1 "
_SHA256: Final = 64  # characters
_SEALED: Final = len(_MARK) + 2 * _SHA256 + 1
_LENGTH: Final = struct.pack("<H", _SEALED)  # in place of the length 0 of no comment
_PART: Final = 2**20


def run_digest(settings: dict[str, Any]) -> str:
    """Checksum of what makes a run another run."""
    return digest({name: value for name, value in settings.items() if name != MAY_CHANGE})


def written(folder: Path) -> list[Path]:
    """Checkpoints in a folder, oldest first.

    What has another name, or is no plain file, is none.
    """
    numbered = [
        (match, path)
        for path in folder.iterdir()
        if (match := _NAME.fullmatch(path.name)) and path.is_file()
    ]
    return [path for _, path in sorted(numbered, key=lambda one: int(one[0][1]))]


def tidy(folder: Path) -> None:
    """Remove halves of checkpoints, which writers that were killed left.

    To be called by the only writer.
    """
    for path in folder.glob(f"{in_place.OURS}*"):
        in_place.remove(path)


def is_whole(path: Path) -> bool:
    """Whether a checkpoint is what was written."""
    return run_of(path) is not None


def run_of(path: Path) -> str | None:
    """Digest of the run that a checkpoint is of; None where the file is not whole."""
    with path.open("rb") as file:
        n = os.fstat(file.fileno()).st_size - _SEALED - len(_LENGTH)
        if n <= 0:
            return None
        checksum = hashlib.sha256()
        while part := file.read(min(_PART, n)):
            checksum.update(part)
            n -= len(part)
        end = file.read()
    run = end[-_SHA256:]
    return run.decode() if end == _seal(checksum, run) else None


def _seal(content: Any, run: bytes) -> bytes:
    """The end of the file: mark, checksum of content and run, and the run."""
    content.update(run)
    checksum: str = content.hexdigest()
    return _LENGTH + _MARK + checksum.encode() + b" " + run


class WholeCheckpoints(TorchCheckpointIO):
    """Write a sealed checkpoint aside, read it back, and rename it into place.

    Read nothing but tensors and plain values.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        """Write, and leave no half of a file under the name of a whole one.

        PyTorch writes to memory: to a file that it writes itself it says nothing of a full disk
        that anybody could act on.
        """
        path, parts = Path(path), _parts(checkpoint)
        try:
            in_place.replace(
                path, lambda file: _write(file, parts), lambda file: self._is(file, checkpoint)
            )
        except OSError as error:
            raise OSError(
                error.errno,
                f"The checkpoint could not be written ({os.strerror(error.errno or 0)}); the "
                f"ones before it are whole. "
                "Make room and start the same run again: it goes on from there",
                str(path),
            ) from error

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read; whatever is asked, nothing in the file is executed.

        Raises
        ------
        ValueError
            It holds more than tensors and plain values, or is not whole.
        """
        try:
            checkpoint: dict[str, Any] = torch.load(
                path, map_location=map_location or "cpu", weights_only=True
            )
        except (OSError, MemoryError):
            raise
        except Exception as error:
            raise ValueError(
                f"{path} is no checkpoint of a training: it is damaged, or holds more than "
                f"tensors and plain values, of which nothing was executed. "
                "Name another folder to start again."
            ) from error
        return checkpoint

    def _is(self, path: Path, checkpoint: dict[str, Any]) -> bool:
        """Whether a run that goes on from the file gets what this one has."""
        return is_whole(path) and same(bits(self.load_checkpoint(path)), bits(checkpoint))

    def remove_checkpoint(self, path: Any) -> None:
        """Remove the file."""
        Path(path).unlink(missing_ok=True)


def _parts(checkpoint: dict[str, Any]) -> list[memoryview | bytes]:
    """The archive, without the two bytes that say that it has no comment, and the seal."""
    memory = io.BytesIO()
    torch.save(checkpoint, memory)
    content = memory.getbuffer()[: -len(_LENGTH)]
    return [content, _seal(hashlib.sha256(content), run_digest(checkpoint.get(RUN, {})).encode())]


def _write(path: Path, parts: Iterable[memoryview | bytes]) -> None:
    with path.open("wb") as file:
        for part in parts:
            file.write(part)
