"""The commands that train: pretrain and finetune, and the options they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from scbert_cll import _keys
from scbert_cll._cli_shared import (
    Accelerator,
    Value,
    first_process,
    known_choices,
    learned,
    model_folder,
    only_our_news,
    save,
    say,
    source,
    table,
    validated,
)


@dataclass(frozen=True, kw_only=True)
class Training:
    """How long, where and how a model is trained; what is not given is as the package has it.

    Parameters
    ----------
    max_epochs
        Passes over the training cells.
    max_steps
        Steps of the optimiser, after which training ends whatever the epoch.
    batch_size
        Cells per step, of all devices together; auto: as many as fit.
    accumulate_grad_batches
        Batches whose gradients are summed for one step.
    early_stopping
        Whether to stop when the validation loss no longer falls, and keep the best epoch.
    precision
        Numbers to compute with; bf16-mixed halves the memory on recent GPUs.
    accelerator
        Where to train; auto takes a GPU where there is one.
    devices
        GPUs of each machine, or processes on the CPU.
    num_nodes
        Machines.
    strategy
        How several devices share the work, e.g. ddp.
    balance
        obs columns of a corpus, of whose values every combination is drawn equally often in training, e.g. the labels and donor.
    num_workers
        Processes that read a corpus beside the one that trains.
    checkpoint_dir
        Folder of checkpoints: the same command goes on from the last one after an interruption.
    checkpoint_minutes
        Minutes between two checkpoints (default: 30).
    checkpoint_steps
        Steps between two checkpoints.
    logger
        Write losses as they fall to a table (csv) or for TensorBoard, in checkpoint_dir or else in the working directory.
    seed
        Of everything random.
    more
        Further parameters of the model's train method and of Lightning's trainer, e.g. --more.recompute true.
    """

    max_epochs: int | None = None
    max_steps: int | None = None
    batch_size: int | Literal["auto"] | None = None
    accumulate_grad_batches: int | None = None
    early_stopping: bool | None = None
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] | None = None
    accelerator: Accelerator = "auto"
    devices: int | str | None = None
    num_nodes: int | None = None
    strategy: str | None = None
    balance: Sequence[str] = ()
    num_workers: int = 0
    checkpoint_dir: Path | None = None
    checkpoint_minutes: float | None = None
    checkpoint_steps: int | None = None
    logger: Literal["csv", "tensorboard"] | None = None
    seed: int = 0
    more: dict[str, Value] | None = None

    def check(self, command: Literal["pretrain", "finetune"]) -> None:
        """Refuse names, devices and precision that cannot be, before any cell is read."""
        from scbert_cll import ScBERT, ScBERTClassifier
        from scbert_cll.model._asked import check_training, names_of_training, training_device

        kind = ScBERT if command == "pretrain" else ScBERTClassifier
        check_training(self.more or {}, names_of_training(kind.train, "datamodule"), "--more")
        training_device(self.given())

    def given(self) -> dict[str, Any]:
        """What the functions of the package are to be called with."""
        found = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "more"}
        asked = {name: value for name, value in found.items() if value is not None}
        asked["rng"] = asked.pop("seed")
        return asked | (self.more or {})


def pretrain(
    data: Path,
    *,
    out: Path,
    preset: Literal["small", "scbert"] = "small",
    network: dict[str, Value] | None = None,
    gene_embedding: Literal["auto", "gene2vec", "learned", "sinusoidal", "none"] = "auto",
    exclude_genes: Sequence[str] = (),
    layer: str = _keys.BINNED,
    split_key: str = _keys.SPLIT,
    training: Training,
    overwrite: bool = False,
) -> None:
    """Learn from RNA alone: the network guesses the expression bin of hidden genes from the rest of the cell.

    Needs no labels. Validation cells decide when to stop; test cells are never trained on. With several processes (--devices 2
    --strategy ddp) each has its share of the cells, and the first one writes the model.

    Parameters
    ----------
    data
        A corpus (see the command corpus), or an .h5ad or .h5mu with a layer of pp.bin_expression.
    out
        Folder for the model.
    preset
        small trains on a laptop, scbert is the published network.
    network
        Single choices of the network, e.g. --network.n_hidden 64 --network.n_layers 2.
    gene_embedding
        What tells genes apart; auto: gene2vec where the file has the vectors, else learned.
    exclude_genes
        Genes that the network shall not see, e.g. ITGA4.
    layer
        Layer of tokens (.h5ad).
    split_key
        obs column of the split (.h5ad); where there is none, a random tenth of the cells validates.
    overwrite
        Replace a model that is in --out.
    """
    model_folder(out, overwrite=overwrite)
    known_choices(network)
    training.check("pretrain")
    only_our_news()
    cells = source(data)
    from scbert_cll import tl

    choices: dict[str, Any] = {"preset": preset, "exclude_genes": list(exclude_genes)}
    if gene_embedding == "auto":
        gene_embedding = "gene2vec" if _keys.GENE2VEC in getattr(cells, "varm", {}) else "learned"
    choices["gene_embedding"] = gene_embedding
    choices |= {"layer": layer, "split_key": split_key, "network": network}
    model = tl.pretrain(cells, **choices, **training.given())
    if first_process():  # the others have no history
        say(learned(model))
    save(model, out, overwrite=overwrite)


def finetune(
    data: Path,
    *,
    out: Path,
    pretrained: Path | None = None,
    labels_key: str = _keys.CD49D,
    split_key: str = _keys.SPLIT,
    weight_key: str = _keys.BALANCE_WEIGHT,
    donor_key: str | None = None,
    protein_key: str | None = None,
    combine: Literal["none", "average", "residual"] = "average",
    freeze: Literal["none", "encoder", "scbert"] = "none",
    network: dict[str, Value] | None = None,
    exclude_genes: Sequence[str] = (),
    layer: str = _keys.BINNED,
    training: Training,
    overwrite: bool = False,
) -> None:
    """Learn labels: a classifier of cells, beside a logistic regression on the same cells.

    Only cells of the part train are learned from and only cells of val are used to choose, so the scores of test cells are honest. They
    are printed beside those of the logistic regression: without it nobody knows what the network is worth.

    Parameters
    ----------
    data
        A corpus, or an .h5ad or .h5mu with a layer of pp.bin_expression, labels and a split.
    out
        Folder for the model.
    pretrained
        Folder of a model of the command pretrain; without it the network starts from scratch.
    labels_key
        obs column of the classes.
    split_key
        obs column of pp.split_donors (.h5ad).
    weight_key
        obs column of pp.balance, used where it exists (.h5ad).
    donor_key
        obs column of donors, so that cells the logistic regression holds out are of other donors (.h5ad).
    protein_key
        obsm with the raw counts of all measured proteins, to be learned beside the class (.h5ad).
    combine
        What is predicted: the mean of the network's and the logistic regression's log-probabilities (average), what the network learns
        of what the other leaves (residual), or the network alone (none).
    freeze
        What of the pretrained network is not trained: nothing, all but the head (encoder), or what the published recipe freezes.
    network
        Single choices of a network from scratch, or of the head, e.g. --network.dropout 0.2; --network.preset scbert is the published one.
    exclude_genes
        Genes that a network from scratch shall not see, e.g. ITGA4.
    layer
        Layer of tokens of a network from scratch (.h5ad).
    overwrite
        Replace a model that is in --out.
    """
    model_folder(out, overwrite=overwrite)
    known_choices(network, "preset")
    training.check("finetune")
    only_our_news()
    cells = source(data)
    from scbert_cll import ScBERT, tl

    start = None if pretrained is None else ScBERT.load(pretrained)
    asked: dict[str, Any] = {"labels_key": labels_key, "split_key": split_key, "weight_key": weight_key, "layer": layer}
    asked |= {"donor_key": donor_key, "protein_key": protein_key, "exclude_genes": list(exclude_genes)}
    asked |= {"combine": combine, "freeze": freeze, "network": network}
    classifier = tl.finetune(cells, start, **asked, **training.given())
    if first_process():
        say(validated(classifier) if isinstance(cells, Path) else table(cells.uns[_keys.SCBERT]["comparison"]))
    save(classifier, out, overwrite=overwrite)
