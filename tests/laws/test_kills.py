"""A save that is killed, at whatever line, leaves the old model or the new one, and the next save leaves nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
