"""A save that is killed, at whatever line, leaves the old model or the new one, and the next save
leaves nothing else.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import scbert_cll as sc_cll
from scbert_cll._disk import in_place

HERE = Path(__file__).parent


@pytest.mark.slow  # hundreds of saves
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
@pytest.mark.parametrize(("way", "at_least"), [("lines", 400), ("moments", 60), ("together", 100)])
def test_one_of_both_models_is_there_whatever_happens_to_those_who_save(
    way: str, at_least: int, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    command = [sys.executable, "-W", "ignore", HERE / "killing.py", way, tmp_path / "in" / "model"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) >= at_least


def test_who_may_not_end_an_exchange_is_told_who_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".scbert_cll-old-model").mkdir()

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(in_place, "FileLock", refused)
    with pytest.raises(
        PermissionError,
        match=rf"Read it once as somebody who may write to {tmp_path}, which ends that",
    ):
        sc_cll.model.ScBERT.load(tmp_path / "model")
