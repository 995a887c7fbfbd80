"""Full disks and mount points: a sentence, the old version as it was, nothing left over, and with
room the same call works.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.laws.test_power import Work, corpus, sources, works  # noqa: F401

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
    if (
        sys.platform != "linux"
        or mount("-t", "tmpfs", "-o", f"size={SIZE}", "none", str(place)).returncode
    ):
        pytest.skip("a file system can be mounted by root on Linux only")
    yield place
    umount(place)


def fill(disk: Path, room: int) -> Path:
    """Leave so many bytes."""
    free = os.statvfs(disk)
    file = disk / "filler"
    file.write_bytes(bytes(max(free.f_bavail * free.f_bsize - room, 0)))
    return file


NO_SPACE = "No space left on device: not written, and what was there before is as it was. Make room"


@contextmanager
def full(work: Work, path: Path, room: int) -> Iterator[None]:
    """A disk of so much room, with what was written before: it stays, nothing else is left there,
    and with room the same call works.
    """
    work.write(path, 0)
    old, names = work.read(path), sorted(one.name for one in path.parent.iterdir())
    filler = fill(path.parent, room)
    yield
    assert work.read(path) == old
    filler.unlink()
    assert sorted(one.name for one in path.parent.iterdir()) == names
    work.write(path, 1)
    assert work.read(path) != old


@pytest.mark.parametrize(
    ("kind", "room"),
    [
        *((kind, 0) for kind in ("model", "csv", "gmt", "json", "vocabulary")),
        ("model", 4096),
        ("model", 16384),
    ],
)
def test_a_full_disk_costs_nothing_that_was_there(
    kind: str,
    room: int,
    disk: Path,
    works: dict[str, Work],  # noqa: F811
) -> None:
    work, path = works[kind], disk / works[kind].name
    with full(work, path, room):
        with pytest.raises(OSError, match=NO_SPACE) as error:
            work.write(path, 1)
        assert error.value.errno == errno.ENOSPC


CELLS = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests._make import graded_cells
from tests.laws.test_power import both, write_cells

path = Path(sys.argv[2])
try:
    write_cells(path, graded_cells(1) if path.suffix == ".h5ad" else both(1))
except OSError as error:
    sys.stdout.write(f"{error.errno} {error}")
sys.stdout.flush()
os._exit(0)
"""


# a process each: HDF5 that could not write may end the process later, as a command does at once
@pytest.mark.slow  # mounts small disks, and fills them
@pytest.mark.parametrize(("kind", "room"), [("h5ad", 0), ("h5ad", 16384), ("h5mu", 4096)])
def test_a_full_disk_costs_no_file_of_cells(
    kind: str,
    room: int,
    disk: Path,
    works: dict[str, Work],  # noqa: F811
) -> None:
    work, path = works[kind], disk / works[kind].name
    with full(work, path, room):
        command = [sys.executable, "-W", "ignore", "-c", CELLS, Path(__file__).parents[2], path]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.startswith(f"{errno.ENOSPC} "), done.stdout + done.stderr[-2000:]
        assert NO_SPACE in done.stdout


@pytest.mark.slow  # a command in a process of its own
def test_a_command_ends_with_a_sentence_where_the_disk_is_full(
    disk: Path,
    tmp_path: Path,
    works: dict[str, Work],  # noqa: F811
) -> None:
    works["model"].write(tmp_path / "model", 0)
    works["h5ad"].write(tmp_path / "a.h5ad", 0)
    works["h5ad"].write(disk / "p.h5ad", 1)
    old = works["h5ad"].read(disk / "p.h5ad")
    fill(disk, 8192)
    command = [sys.executable, "-W", "ignore", "-m", "scbert_cll", "predict", tmp_path / "a.h5ad"]
    command += ["--layer", "X", "--model", tmp_path / "model", "--out", disk / "p.h5ad"]
    command += ["--overwrite"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 5, done.stdout + done.stderr
    assert f"error: {disk / 'p.h5ad'}: {NO_SPACE.partition(' before')[0]}" in done.stderr
    assert works["h5ad"].read(disk / "p.h5ad") == old


def test_a_mount_point_is_refused_in_a_sentence_and_kept(
    disk: Path,
    works: dict[str, Work],  # noqa: F811
) -> None:
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
