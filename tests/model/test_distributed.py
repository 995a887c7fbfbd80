"""Training by two processes on one machine."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

SCRIPT = """
import sys, warnings
import numpy as np, pandas as pd, torch
from anndata import AnnData
from scipy import sparse
from scbert_cll import pp
from scbert_cll.model import ScBERT, ScBERTClassifier

def main(folder):
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    label = rng.random(48) < 0.5
    mean = rng.gamma(0.6, 4, 30) * np.ones((48, 1))
    mean[:, :8] = np.where(label, 6, 0.3)[:, None]
    obs = pd.DataFrame({"label": np.where(label, "b", "a"), "split": ["train", "train", "train", "val"] * 12})
    obs.index = obs.index.astype(str)
    adata = AnnData(sparse.csr_matrix(rng.poisson(mean).astype(np.float32)), obs=obs)
    pp.bin_expression(adata, target_sum=300)
    how = {"accelerator": "cpu", "devices": 2, "strategy": "ddp", "enable_progress_bar": False, "early_stopping": False}
    network = {"n_hidden": 16, "n_heads": 2, "gene_embedding": "learned"}
    ScBERT.setup_anndata(adata)
    pretrained = ScBERT(adata, **network)
    pretrained.train(2, split_key="split", batch_size=12, accumulate_grad_batches=2, gradient_clip_val=1.0, **how)
    model = ScBERTClassifier.from_pretrained(pretrained, adata, labels_key="label")
    model.train(6, split_key="split", batch_size=12, lr=1e-2, recompute=True, **how)
    rank = torch.distributed.get_rank()
    weights = {f"classifier.{k}": v.numpy() for k, v in model.module.state_dict().items()}
    weights |= {f"pretrained.{k}": v.numpy() for k, v in pretrained.module.state_dict().items()}
    np.savez(f"{folder}/{rank}.npz", right=(model.predict().to_numpy() == adata.obs["label"].to_numpy()), **weights)

if __name__ == "__main__":
    main(sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="PyTorch without distributed training")
def test_two_processes_train_one_network(tmp_path):
    """Pretraining with accumulation and clipping, then fine-tuning with recomputation; both end with the same weights."""
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(SCRIPT))
    done = subprocess.run(
        [sys.executable, script, tmp_path], capture_output=True, text=True, check=False, timeout=300, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (np.load(tmp_path / f"{rank}.npz") for rank in (0, 1))
    assert len(first.files) > 20
    for name in first.files:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    assert first["right"].mean() > 0.8
