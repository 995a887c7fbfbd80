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
import lightning.pytorch as L
import numpy as np, pandas as pd, torch
from anndata import AnnData
from scipy import sparse
from scbert_cll import pp
from scbert_cll.model import CorpusData, ScBERT, ScBERTClassifier


class Seen(L.Callback):
    # which cells this process saw, in which epoch
    def __init__(self):
        self.rows = {"train": {}, "validation": {}}

    def on_train_batch_end(self, trainer, module, outputs, batch, *args):
        self.rows["train"].setdefault(trainer.current_epoch, []).append(batch["rows"].numpy())

    def on_validation_batch_end(self, trainer, module, outputs, batch, *args):
        self.rows["validation"].setdefault(trainer.current_epoch, []).append(batch["rows"].numpy())


def on_corpus(folder, corpus, how):
    seen = Seen()
    data = CorpusData(corpus, chunk_size=8, preload_nchunks=3)
    model = ScBERT.from_corpus(data, n_hidden=16, n_heads=2)
    how = how | {"early_stopping": True, "checkpoint_dir": f"{folder}/run", "checkpoint_steps": 6}
    model.train(2, datamodule=data, batch_size=12, callbacks=[seen], **how)
    rank = torch.distributed.get_rank()
    found = {
        f"{part}{epoch}": np.concatenate(rows)
        for part, epochs in seen.rows.items()
        for epoch, rows in epochs.items()
    }
    found |= {f"steps{epoch}": len(rows) for epoch, rows in seen.rows["train"].items()}
    found |= {f"weights.{k}": v.numpy() for k, v in model.module.state_dict().items()}
    np.savez(f"{folder}/corpus{rank}.npz", n_train=data.n_train, n_val=data.n_val, **found)


def main(folder, corpus):
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    label = rng.random(48) < 0.5
    mean = rng.gamma(0.6, 4, 30) * np.ones((48, 1))
    mean[:, :8] = np.where(label, 6, 0.3)[:, None]
    obs = pd.DataFrame(
        {"label": np.where(label, "b", "a"), "split": ["train", "train", "train", "val"] * 12}
    )
    obs.index = obs.index.astype(str)
    adata = AnnData(sparse.csr_matrix(rng.poisson(mean).astype(np.float32)), obs=obs)
    pp.bin_expression(adata, target_sum=300)
    how = {
        "accelerator": "cpu",
        "devices": 2,
        "strategy": "ddp",
        "enable_progress_bar": False,
        "early_stopping": False,
    }
    network = {"n_hidden": 16, "n_heads": 2, "gene_embedding": "learned"}
    ScBERT.setup_anndata(adata)
    pretrained = ScBERT(adata, **network)
    pretrained.train(
        2, split_key="split", batch_size=12, accumulate_grad_batches=2, gradient_clip_val=1.0, **how
    )
    model = ScBERTClassifier.from_pretrained(pretrained, adata, labels_key="label")
    model.train(6, split_key="split", batch_size=12, lr=1e-2, recompute=True, **how)
    on_corpus(folder, corpus, how)
    rank = torch.distributed.get_rank()
    weights = {f"classifier.{k}": v.numpy() for k, v in model.module.state_dict().items()}
    weights |= {f"pretrained.{k}": v.numpy() for k, v in pretrained.module.state_dict().items()}
    np.savez(
        f"{folder}/{rank}.npz",
        right=(model.predict().to_numpy() == adata.obs["label"].to_numpy()),
        **weights,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
"""


@pytest.mark.slow  # starts two processes
@pytest.mark.skipif(
    not torch.distributed.is_available(), reason="PyTorch without distributed training"
)
def test_two_processes_train_one_network(tmp_path, corpus):
    """In memory with accumulation, clipping and recomputation, and on a corpus; both processes end
    with the same weights.
    """
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(SCRIPT))
    done = subprocess.run(
        [sys.executable, script, tmp_path, corpus],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (np.load(tmp_path / f"{rank}.npz") for rank in (0, 1))
    assert len(first.files) > 20
    for name in first.files:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    assert first["right"].mean() > 0.8
    _every_cell_once(*(np.load(tmp_path / f"corpus{rank}.npz") for rank in (0, 1)))
    assert len(list((tmp_path / "run").glob("step_*.ckpt"))) == 2
    assert not (tmp_path / "lightning_logs").exists()


def _every_cell_once(first, second):
    for part in ("train", "validation"):
        n = int(first["n_train" if part == "train" else "n_val"])
        for epoch in (0, 1):
            seen = np.concatenate([rank[f"{part}{epoch}"] for rank in (first, second)])
            np.testing.assert_array_equal(np.sort(seen), np.arange(n))
    assert int(first["steps0"]) == int(second["steps0"]) == int(first["steps1"])
    for name in [name for name in first.files if name.startswith("weights")]:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
