"""A disk that keeps only what it was told to keep: what a folder may be after a crash or a power
loss, at every moment of some work.

The calls by which programs change names and force data (fsync, replace, rename, unlink, rmdir,
mkdir) are recorded. Before each of them, and at the end, two states of the disk are possible and
both are kept: *all names* (renames have arrived, data that was not forced has not: a file that
changed since is empty, as on ext4), and *forced names* (nothing has arrived but what was forced, of
names as of data). After the idea of ALICE (Pillai et al., OSDI 2014) and of SQLite's crash tests.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

type Tree = Mapping[
    str, bytes | None
]  # files with their bytes, folders with None, by path below the root

CHANGING = ("replace", "rename", "unlink", "remove", "rmdir", "mkdir")


class Disk:
    """What of a folder is on the disk, while work goes on in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.states: dict[
            int, tuple[str, Tree]
        ] = {}  # by content, as they came: when it was, and the tree
        self.returned = 0  # calls of the work that have returned, told by who watches it
        self.promised: list[int] = []  # how many had, by state
        self.last: list[Tree] = []  # both states when the work has returned
        self._one_at_a_time = threading.RLock()  # zarr writes in threads
        self._held: dict[int, int] = {}  # inodes are kept open, lest their numbers are used again
        self._bytes: dict[int, bytes] = {}
        self._names: dict[int, dict[str, int]] = {}
        self._folders: set[int] = set()
        self._see()
        self._bytes = {inode: data for inode, data in self._now.items() if isinstance(data, bytes)}
        self._names = dict(self._entries)

    @contextmanager
    def recorded(self, *, forcing: bool = True) -> Iterator[Disk]:
        """Record; without `forcing` nobody's fsync reaches the disk."""
        with ExitStack() as patches:
            for name in CHANGING:
                patches.enter_context(
                    mock.patch.object(os, name, self._before(getattr(os, name), name))
                )
            fsync = os.fsync
            patches.enter_context(
                mock.patch.object(os, "fsync", self._forced(fsync) if forcing else lambda _: None)
            )
            yield self
            self._keep("the end")
        for opened in self._held.values():
            os.close(opened)

    def lay(self, tree: Tree) -> None:
        """Make the folder what a tree says."""
        for path in list(self.root.iterdir()):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        for name, data in tree.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.mkdir(exist_ok=True) if data is None else path.write_bytes(data)

    def _before(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def changing(*args: Any, **kwargs: Any) -> Any:
            with self._one_at_a_time:
                self._keep(f"before {name}{args}")
                return call(*args, **kwargs)

        return changing

    def _forced(self, call: Callable[[int], None]) -> Callable[[Any], None]:
        def fsync(file: Any) -> None:
            with self._one_at_a_time:
                call(file)
                self._see()
                inode = os.fstat(file).st_ino
                if inode in self._entries:
                    self._names[inode] = self._entries[inode]
                elif isinstance(data := self._now.get(inode), bytes):
                    self._bytes[inode] = data
                self._keep("after fsync")

        return fsync

    def _see(self) -> None:
        """All that is there now, by inode."""
        self._now: dict[int, bytes | None] = {}
        self._entries: dict[int, dict[str, int]] = {}
        self._look(self.root)

    def _look(self, folder: Path) -> int:
        inode = self._hold(folder)
        entries = self._entries[inode] = {}
        self._now[inode] = None
        for path in sorted(folder.iterdir()):
            if path.is_dir():
                entries[path.name] = self._look(path)
            else:
                entries[path.name] = self._hold(path)
                self._now[entries[path.name]] = path.read_bytes()
        return inode

    def _hold(self, path: Path) -> int:
        inode = path.stat().st_ino
        if inode not in self._held:
            self._held[inode] = os.open(path, os.O_RDONLY)
            if path.is_dir():
                self._folders.add(inode)
        return inode

    def _keep(self, when: str) -> None:
        """Both states that the disk may be in."""
        self._see()
        lost = {
            inode: data if data is None or self._bytes.get(inode) == data else b""
            for inode, data in self._now.items()
        }
        self.last = []
        for kind, entries, data in (
            ("all names", self._entries, lost),
            ("forced names", self._names, dict.fromkeys(self._folders) | self._bytes),
        ):
            tree = dict(_tree(self._root_inode, entries, data))
            key = hash((self.returned, *sorted(tree.items())))
            self.last.append(tree)
            if key not in self.states:
                self.states[key] = f"{kind}, {when}", tree
                self.promised.append(self.returned)

    @property
    def _root_inode(self) -> int:
        return self.root.stat().st_ino


def _tree(
    folder: int,
    entries: Mapping[int, Mapping[str, int]],
    data: Mapping[int, bytes | None],
    at: str = "",
) -> Iterator[tuple[str, bytes | None]]:
    for name, inode in entries.get(folder, {}).items():
        found = data.get(inode, b"")  # a name without a byte that was forced
        yield f"{at}{name}", found
        if found is None:
            yield from _tree(inode, entries, data, f"{at}{name}/")
