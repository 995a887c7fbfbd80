"""Putting in place, whatever the name, the links and the errors of the disk: old or new, a sentence
of the system's, nothing left over.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scbert_cll._disk import formats
from tests.laws.disk import CHANGING
from tests.laws.test_power import Work, corpus, sources, works  # noqa: F401


class Failing:
    """The n-th call that changes names or forces data fails, as on a disk with a defect; without
    `at` calls are counted.
    """

    def __init__(self, patch: pytest.MonkeyPatch, at: int | None = None) -> None:
        self.n, self.at = 0, at
        for name in (*CHANGING, "fsync"):
            patch.setattr(os, name, self._failing(getattr(os, name)))

    def _failing(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def failing(*args: Any, **kwargs: Any) -> Any:
            self.n += 1
            if self.n == self.at:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return call(*args, **kwargs)

        return failing


@pytest.mark.parametrize("kind", ["model", "csv", "json", "vocabulary"])
def test_a_disk_that_fails_at_any_call_costs_nothing(
    kind: str,
    works: dict[str, Work],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work, path = works[kind], tmp_path / works[kind].name
    work.write(path, 1)
    versions = [work.read(path)]
    with monkeypatch.context() as patch:
        count = Failing(patch)
        work.write(path, 0)
    versions.append(work.read(path))
    names = sorted(one.name for one in tmp_path.iterdir())
    assert count.n >= 4
    for at in range(1, count.n + 1):
        with monkeypatch.context() as patch:
            Failing(patch, at)
            try:
                work.write(path, at % 2)
            except OSError as error:
                assert error.errno == errno.EIO  # noqa: PT017
        assert work.read(path) in versions
    work.write(path, 1)
    assert work.read(path) == versions[0]
    assert sorted(one.name for one in tmp_path.iterdir()) == names


@pytest.mark.parametrize(
    "name",
    ["a" * 245 + ".json", "ü" * 120 + ".json", " a.json", "a\nb.json", "-a.json", "a.b.json"],
)
def test_any_name_that_a_file_may_have(name: str, tmp_path: Path) -> None:
    for value in (1, 2):
        formats.write_json(tmp_path / name, {"v": value})
        assert formats.read_json(tmp_path / name) == {"v": value}
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("kind", ["model", "json"])
def test_a_link_stays_a_link_and_what_it_leads_to_is_replaced(
    kind: str,
    works: dict[str, Work],  # noqa: F811
    tmp_path: Path,
) -> None:
    work = works[kind]
    (tmp_path / "other disk").mkdir()
    target, link = tmp_path / "other disk" / "target", tmp_path / "link"
    work.write(target, 0)
    old = work.read(target)
    link.symlink_to(target)
    work.write(link, 1)
    assert link.is_symlink()
    assert work.read(target) == work.read(link) != old
    assert sorted(
        path.name for path in tmp_path.rglob("*") if path.parent in (tmp_path, target.parent)
    ) == [
        "link",
        "other disk",
        "target",
    ]


def test_threads_write_one_after_another(tmp_path: Path) -> None:
    path, failed = tmp_path / "a.json", list[BaseException]()

    def write(value: int) -> None:
        try:
            for _ in range(10):
                formats.write_json(path, {"v": [value] * 100})
                assert len(set(formats.read_json(path)["v"])) == 1
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_drive_on_which_folders_cannot_be_forced_will_do(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def refusing(file: int) -> None:
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(file)

    monkeypatch.setattr(os, "fsync", refusing)
    formats.write_json(tmp_path / "a" / "b.json", {"v": 1})
    assert formats.read_json(tmp_path / "a" / "b.json") == {"v": 1}
