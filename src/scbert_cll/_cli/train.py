"""The commands that train: pretrain and finetune, and the options they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scbert_cll import _keys
from scbert_cll._cli.reading import Cells, ReadingTokens
from scbert_cll._cli.shared import (
    Accelerator,
    Value,
    first_process,
    known_choices,
    learned,
    model_folder,
    only_of_cells,
    only_our_news,
    save,
    say,
    source,
    table,
    typed_column,
    validated,
    with_protein,
    with_split,
    with_tokens,
)

if TYPE_CHECKING:
    from anndata import AnnData

    from scbert_cll.model import ScBERT


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
        obs columns of a corpus, of whose values every combination is drawn equally often in
        training, e.g. the labels and donor.
    num_workers
        Processes that read a corpus beside the one that trains.
    checkpoint_dir
        Folder of checkpoints: the same command goes on from the last one after an interruption.
    checkpoint_minutes
        Minutes between two checkpoints (default: 30).
    checkpoint_steps
        Steps between two checkpoints.
    logger
        Write losses as they fall to a table (csv) or for TensorBoard, in checkpoint_dir or else in
        the working directory.
    seed
        Of everything random.
    more
        Further parameters of the model's train method and of Lightning's trainer, e.g.
        --more.recompute true.
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
        from scbert_cll.model.training.arguments import (
            check_training,
            names_of_training,
            training_device,
        )

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
    split_key: str | None = None,
    reading: ReadingTokens,
    training: Training,
    overwrite: bool = False,
) -> None:
    """Learn from RNA alone: the network guesses the expression bin of hidden genes from the rest of the cell.

    Needs no labels. Validation cells decide when to stop; test cells are never trained on. With
    several processes (--devices 2 --strategy ddp) each has its share of the cells, and the first
    one writes the model.

    Parameters
    ----------
    data
        A corpus (see the command corpus), or an .h5ad or .h5mu with a layer of pp.bin_expression
        or, with --layer, raw counts.
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
    split_key
        obs column of the split (default: split, where it is there). Without a split a tenth
        validates: of the donors where --donor-key names them, else of the cells.
    overwrite
        Replace a model that is in --out.
    """
    model_folder(out, overwrite=overwrite)
    known_choices(network)
    training.check("pretrain")
    only_our_news()
    cells = source(data, reading, split_key)
    from scbert_cll import tl

    choices: dict[str, Any] = {"preset": preset, "exclude_genes": list(exclude_genes)}
    tokens: Path | AnnData
    if isinstance(cells, Path):
        only_of_cells(cells, split_key=split_key is not None)
        tokens = cells
    else:
        choices["split_key"] = with_split(cells, split_key)
        tokens = with_tokens(cells, reading)
    if gene_embedding == "auto":
        gene_embedding = "gene2vec" if _keys.GENE2VEC in getattr(tokens, "varm", {}) else "learned"
    choices |= {"gene_embedding": gene_embedding, "network": network}
    model = tl.pretrain(tokens, **choices, **training.given())
    if first_process():  # the others have no history
        say(learned(model))
    save(model, out, overwrite=overwrite)


def finetune(
    data: Path,
    *,
    out: Path,
    pretrained: Path | None = None,
    labels_key: str = _keys.CD49D,
    split_key: str | None = None,
    weight_key: str | None = None,
    combine: Literal["none", "average", "residual"] = "average",
    freeze: Literal["none", "encoder", "scbert"] = "none",
    network: dict[str, Value] | None = None,
    exclude_genes: Sequence[str] = (),
    reading: ReadingTokens,
    training: Training,
    overwrite: bool = False,
) -> None:
    """Learn labels: a classifier of cells, beside a logistic regression on the same cells.

    Only cells of the part train are learned from and only cells of val are used to choose, so the
    scores of test cells are honest. They are printed beside those of the logistic regression:
    without it nobody knows what the network is worth.

    Parameters
    ----------
    data
        A corpus, or an .h5ad or .h5mu with labels, a split or donors, and a layer of
        pp.bin_expression or, with --layer, raw counts.
    out
        Folder for the model.
    pretrained
        Folder of a model of the command pretrain; without it the network starts from scratch.
    labels_key
        obs column of the classes.
    split_key
        obs column of the split (default: split, where it is there). Without a split donors are held
        out where --donor-key names them.
    weight_key
        obs column of weights (default: balance_weight of pp.balance, where it is there).
    combine
        What is predicted: the mean of the network's and the logistic regression's log-probabilities
        (average), what the network learns of what the other leaves (residual), or the network alone
        (none).
    freeze
        What of the pretrained network is not trained: nothing, all but the head (encoder), or what
        the published recipe freezes.
    network
        Single choices of a network from scratch, or of the head, e.g. --network.dropout 0.2;
        --network.preset scbert is the published one.
    exclude_genes
        Genes that a network from scratch shall not see, e.g. ITGA4.
    overwrite
        Replace a model that is in --out.
    """
    model_folder(out, overwrite=overwrite)
    known_choices(network, "preset")
    training.check("finetune")
    only_our_news()
    cells = source(data, reading, labels_key, split_key, weight_key)
    from scbert_cll import ScBERT, tl

    start = None if pretrained is None else ScBERT.load(pretrained)
    asked: dict[str, Any] = {"labels_key": labels_key, "exclude_genes": list(exclude_genes)}
    asked |= {"combine": combine, "freeze": freeze, "network": network}
    tokens: Path | AnnData
    if isinstance(cells, Path):
        only_of_cells(cells, split_key=split_key is not None, weight_key=weight_key is not None)
        tokens = cells
    else:
        tokens = _labelled(cells, reading, start, asked, split_key=split_key, weight_key=weight_key)
    classifier = tl.finetune(tokens, start, **asked, **training.given())
    if first_process():
        say(
            validated(classifier)
            if isinstance(tokens, Path)
            else table(tokens.uns[_keys.SCBERT]["comparison"])
        )
    save(classifier, out, overwrite=overwrite)


def _labelled(
    cells: Cells,
    reading: ReadingTokens,
    start: ScBERT | None,
    asked: dict[str, Any],
    *,
    split_key: str | None,
    weight_key: str | None,
) -> AnnData:
    """Cells with tokens, labels, a split and what else is in the file, all under the names that `asked` then has."""
    labels_key = typed_column(cells, "--labels-key", asked["labels_key"], None)
    asked["split_key"] = with_split(cells, split_key, labels_key)
    if asked["split_key"] is None:
        raise KeyError(
            "There is no split. Name its obs column with --split-key, or the donors with "
            "--donor-key, and they are held out now."
        )
    asked["weight_key"] = typed_column(cells, "--weight-key", weight_key, _keys.BALANCE_WEIGHT)
    asked["donor_key"] = cells.donor_key
    tokens = with_tokens(cells, reading, start)
    if start is None and _keys.GENE2VEC not in tokens.varm:  # as pretrain's auto chooses
        asked["network"] = {"gene_embedding": "learned"} | (asked["network"] or {})
    if reading.protein_key is not None:
        asked["protein_key"] = with_protein(cells, tokens, reading.protein_key)
    return tokens
