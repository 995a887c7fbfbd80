"""Shared fixtures: small objects made once, and the real data where it lies."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path

# Two test processes share two cores; more threads would wait for each other (before anything loads
# OpenMP).
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import matplotlib as mpl
import pytest
from hypothesis import HealthCheck, settings
from numba.core import config
from numba.np.ufunc import parallel

mpl.use("agg")
# How long an example takes on a busy machine, or while coverage is measured, says nothing.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")
# What PyTorch, scanpy and others make while they are loaded would be looked through for cycles
# hundreds of times, which is a tenth of the tests' time.
gc.set_threshold(20_000, 20, 20)
# Lightning reads the entry points of all that is installed for each of some thousand trainings.
metadata.entry_points = cache(metadata.entry_points)


def pytest_collection_finish() -> None:
    """scvi-tools has what is unreachable collected after each training, and looks for it among all
    that was loaded, half a second each time: what is there when tests begin stays anyway.
    """
    import scvi.train  # noqa: F401  # loaded here, as the tests' modules are by now

    gc.collect()
    gc.freeze()


# Numba, which scanpy calls, hands its number of threads to OpenMP and so to PyTorch, which is then
# ten times slower where processes share a core. Without pytest-xdist it was loaded before the lines
# above, by the filters of warnings.
config.reload_config()
parallel.NUM_THREADS = config.NUMBA_NUM_THREADS

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_file() -> Callable[[str], Path]:
    """Path of a file of the real data folder, e.g. `shared_file("data/bmmc_cite.h5mu")`; skips
    where it is absent.
    """

    def find(name: str) -> Path:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"real data not here: {name} (see docs/contributing.md)")
        return path

    return find
