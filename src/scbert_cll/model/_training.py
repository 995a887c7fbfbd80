"""Both trainings, from options to a trained model: of all cells' genes, and of labelled cells."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from scbert_cll.model._inference import token_rows
from scbert_cll.model._protocols import Classifier, Network
from scbert_cll.model.corpus import start
from scbert_cll.model.corpus.data import CorpusData
from scbert_cll.model.training.batches import ResumableData, TokenSplits
from scbert_cll.model.training.best import trained_or_as_before
from scbert_cll.model.training.fit import fit
from scbert_cll.model.training.labelled import labelled, parts_of
from scbert_cll.model.training.options import Finetuning, Freeze, Pretraining
from scbert_cll.model.training.plans import ClassifyPlan, PretrainPlan
from scbert_cll.model.training.seeds import as_seed, seeded
from scbert_cll.nn import Performer

_CELL_PASSES: Final = 10_000
_EPOCHS: Final = (8, 20)


def pretrain(model: Network, options: Pretraining, corpus: CorpusData | None) -> None:
    """Train on hidden genes of the model's cells, or of those of a corpus."""
    seed = as_seed(options.rng)
    data: ResumableData
    if corpus is None:
        rows = token_rows(model, None, seed=seed)
        data = TokenSplits(rows, parts_of(model, options.split_key, seed), seed=seed)
    else:
        data = start.attached(model, corpus, seed)
    plan = PretrainPlan(
        model.module,
        lr=options.lr,
        weight_decay=options.weight_decay,
        seed=seed,
        mask_fraction=options.mask_fraction,
        redraw_every=options.feature_redraw_interval,
    )
    with trained_or_as_before(model) as outcome:
        fit(model, plan, data, options, outcome, max_epochs=options.max_epochs)


def finetune(model: Classifier, options: Finetuning, corpus: CorpusData | None) -> None:
    """Train on labelled cells, with a linear part beside the network."""
    seed = as_seed(options.rng)
    with trained_or_as_before(model) as outcome:
        model.combine = options.combine
        data: ResumableData
        if corpus is None:
            data, loss = labelled(model, options, seed)
        else:
            data, loss = start.labelled(model, corpus, seed, options.columns), math.inf
        _leave_trainable(model.module, options.freeze)
        with seeded(seed):
            plan = ClassifyPlan(
                model.module,
                lr=options.lr,
                weight_decay=options.weight_decay,
                seed=seed,
                token_drop=options.token_drop,
                n_proteins=data.n_proteins,
            )
        max_epochs = options.max_epochs or _usual_epochs(data.n_labelled)
        fit(model, plan, data, options, outcome, max_epochs=max_epochs, start=loss)


def _usual_epochs(n_cells: int) -> int:
    """Fewer passes over more cells: some hundred steps are needed, and more than 20 overfit."""
    return int(np.clip(_CELL_PASSES // max(n_cells, 1), *_EPOCHS))


def _leave_trainable(network: Performer, freeze: Freeze) -> None:
    """Everything, the head only, or as scBERT: head, last LayerNorm and last block but one."""
    network.requires_grad_(freeze == "none")
    # takes no part, which distributed training would complain about
    network.to_bins.requires_grad_(False)
    if network.head is not None:
        network.head.requires_grad_(True)
    if freeze == "scbert":
        network.norm.requires_grad_(True)
        network.blocks[-2 if len(network.blocks) > 1 else -1].requires_grad_(True)
    table, config = network.gene_embedding, network.config
    if table is not None and not (
        config.train_gene_embedding and config.gene_embedding != "sinusoidal"
    ):
        table.weight.requires_grad_(False)
