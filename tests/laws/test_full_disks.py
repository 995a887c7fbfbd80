"""Full disks and mount points: a sentence, the old version as it was, nothing left over, and with room the same call works."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from test_power import Work, corpus, sources, works  # noqa: F401 (fixtures)

SIZE = 1_200_000


def mount(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["mount", *arguments], capture_output=True, check=False)  # noqa: S607


def umount(place: Path) -> None:
    subprocess.run(["umount", "-l", str(place)], check=True)  # noqa: S607


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of some pages."""
    place = tmp_path / "disk"
    place.mkdir()
    if sys.platform != "linux" or mount("-t", "tmpfs", "-o", f"size={SIZE}", "none", str(place)).returncode:
        pytest.skip("a file system can be mounted by root on Linux only")
    yield place
    umount(place)


def fill(disk: Path, room: int) -> Path:
    """Leave so many bytes."""
    there = os.statvfs(disk)
    file = disk / "filler"
    file.write_bytes(bytes(max(there.f_bavail * there.f_bsize - room, 0)))
    return file


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # h5py closes what HDF5 could not write
@pytest.mark.parametrize(
    ("kind", "room"),
    [
        *((kind, 0) for kind in ("model", "csv", "gmt", "json", "vocabulary", "h5ad", "h5mu")),
        *((kind, room) for kind in ("model", "h5ad", "h5mu") for room in (4096, 16384)),
    ],
)
def test_a_full_disk_costs_nothing_that_was_there(
    kind: str,
    room: int,
    disk: Path,
    works: dict[str, Work],  # noqa: F811
) -> None:
    work, path = works[kind], disk / works[kind].name
    work.write(path, 0)
    old, names = work.read(path), sorted(one.name for one in disk.iterdir())
    filler = fill(disk, room)
    with pytest.raises(OSError, match=r"No space left on device: not written, .* as it was. Make room") as said:
        work.write(path, 1)
    assert said.value.errno == errno.ENOSPC
    assert work.read(path) == old
    filler.unlink()
    assert sorted(one.name for one in disk.iterdir()) == names
    work.write(path, 1)
    assert work.read(path) != old


def test_a_mount_point_is_refused_in_a_sentence_and_kept(disk: Path, works: dict[str, Work]) -> None:  # noqa: F811
    work = works["model"]
    work.write(disk / "model", 0)
    for name in ("config.json", "vocab.txt", "weights.safetensors"):  # a volume that holds a model
        (disk / "model" / name).rename(disk / name)
    for left in (disk / "model").iterdir():
        left.rename(disk / left.name)
    (disk / "model").rmdir()
    old = work.read(disk)
    with pytest.raises(OSError, match=r"This is a mount point .* Name a place inside it"):
        work.write(disk, 1)
    assert work.read(disk) == old
    assert [one.name for one in disk.parent.iterdir()] == ["disk"]
    work.write(disk / "inside", 1)


def test_a_file_that_is_mounted_is_refused_in_a_sentence_and_kept(
    disk: Path,
    tmp_path: Path,
    works: dict[str, Work],  # noqa: F811
) -> None:
    work, path = works["json"], tmp_path / "a.json"
    work.write(path, 0)
    work.write(disk / "b.json", 1)
    mount("--bind", str(disk / "b.json"), str(path)).check_returncode()
    try:
        with pytest.raises(OSError, match="This is a mount point"):
            work.write(path, 0)
        assert work.read(path) == {"v": 1}
    finally:
        umount(path)
