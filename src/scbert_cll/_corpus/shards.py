"""How far predictions of a corpus are, shard by shard, so that each goes on where it was."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from scbert_cll._disk.formats import digest
from scbert_cll._disk.left_overs import read_kept, read_note, write_kept, write_note

_PROGRESS: Final = "progress.json"

type Sums = dict[str, np.ndarray]  # over cells, by what they are of


class Shard:
    """How far one shard of the windows is.

    Sums over its cells are written first and the note that names them after. Each file says which
    call made it, with a checksum of its own; where one does not fit, the shard begins anew.

    Parameters
    ----------
    folder
        In which all shards have theirs.
    number, of
        Which one it is, of how many.
    n_windows
        Windows of all shards.
    call
        What every left-over of this call carries.
    """

    def __init__(self, folder: Path, number: int, of: int, n_windows: int, call: str) -> None:
        self.folder = folder / f"share_{number}"
        self.windows = list(range(number, n_windows, of))
        self.call = digest({"call": call, "share": number, "of": of})
        self.n_done, self.n_without_token = 0, 0
        self.sums: Sums = {}
        note = read_note(self.folder / _PROGRESS, self.call) or {}
        if note.get("has_sums"):
            kept = read_kept(self._sums(note["done"]), self.call)
            if kept is None or kept[0]["done"] != note["done"]:
                note = {}
            else:
                self.sums = kept[1]
        self._is_noted = bool(note)
        if note:
            self.n_done, self.n_without_token = note["done"], note["without_token"]

    @property
    def is_done(self) -> bool:
        """Whether every window is.

        A shard without any is when its job has said so, lest the whole appear before that job has
        begun.
        """
        return self.n_done == len(self.windows) and self._is_noted

    def add(self, sums: Sums, n_without_token: int, files: Mapping[str, str]) -> None:
        """Note that a window is done, and which files hold it."""
        window = self.windows[self.n_done]
        write_note(self._window(window), {"files": files}, self._call_of(window))
        self.sums = added(self.sums, sums)
        self.n_without_token += n_without_token
        self.n_done += 1
        self.note()
        self._sums(self.n_done - 1).unlink(missing_ok=True)

    def note(self) -> None:
        """Write down how far it is."""
        done = {"done": self.n_done}
        if self.sums:
            write_kept(self._sums(self.n_done), self.sums, done, self.call)
        note = {**done, "without_token": self.n_without_token}
        note["has_sums"] = bool(self.sums)
        write_note(self.folder / _PROGRESS, note, self.call)
        self._is_noted = True

    def files(self, window: int) -> dict[str, str] | None:
        """Files with the results of a window, and their checksums; None where no note fits."""
        note = read_note(self._window(window), self._call_of(window))
        return dict(note["files"]) if note else None

    def _window(self, window: int) -> Path:
        return self.folder / f"window_{window}.json"

    def _call_of(self, window: int) -> str:
        return digest({"share": self.call, "window": window})

    def _sums(self, done: int) -> Path:
        return self.folder / f"sums_{done}.npz"


def added(sums: Sums, others: Sums) -> Sums:
    """Sums by name, with others added to them."""
    return sums | {name: sums.get(name, 0) + values for name, values in others.items()}
