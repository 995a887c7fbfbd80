"""The batch script of docs/cluster.md, run as SLURM would run it, with two processes on this
machine's CPU.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from scbert_cll import pp
from scbert_cll.model import ScBERT

SCRIPT = Path(__file__).parents[1] / "docs" / "_static" / "pretrain.sbatch"
SRUN = """#!/bin/sh
for task in 0 1; do
  SLURM_PROCID=$task SLURM_LOCALID=$task "$@" &
  pids="$pids $!"
done
for pid in $pids; do wait "$pid" || exit 1; done
"""
JOB = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NAME": "pretrain",
    "SLURM_NTASKS": "2",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_NNODES": "1",
    "SLURM_NODEID": "0",
    "SLURM_NODELIST": "127.0.0.1",
}


@pytest.mark.slow  # starts two processes
def test_the_batch_script_trains_with_two_tasks(tmp_path):
    rng = np.random.default_rng(0)
    counts = sparse.csr_matrix(rng.poisson(rng.gamma(0.6, 4, 30), (600, 30)).astype(np.float32))
    adata = AnnData(
        counts,
        obs=pd.DataFrame(
            {"donor": [f"d{i % 4}" for i in range(600)]}, index=np.arange(600).astype(str)
        ),
    )
    adata.write_h5ad(tmp_path / "one.h5ad")
    pp.build_corpus([tmp_path / "one.h5ad"], tmp_path / "corpus.zarr", vocab=list(adata.var_names))
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "activate").touch()
    for name, text in {"srun": SRUN, "python": f'#!/bin/sh\nexec {sys.executable} "$@"\n'}.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    env = os.environ | JOB | {"VENV": str(tmp_path), "PATH": f"{commands}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["/bin/bash", SCRIPT],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert 'processes": 2' in (tmp_path / "run" / "run.json").read_text()
    model = ScBERT.load(tmp_path / "model")
    assert len(model.history["validation_loss"]) == 5
    assert list((tmp_path / "run" / "logs").glob("*/metrics.csv"))
