"""The commands that train: pretrain and finetune, and the options they share."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from scbert_cll import _keys
from scbert_cll._checks.words import key_in
from scbert_cll._cli import shared
from scbert_cll._cli.reading import Cells, ReadingTokens
from scbert_cll._cli.shared import Accelerator, Arguments, Value
from scbert_cll._process import to_change

if TYPE_CHECKING:
    from anndata import AnnData

    from scbert_cll.model import ScBERT, ScBERTClassifier

_PACKAGE = Path(__file__).parents[1]
Network = dict[str, Value] | None  # single choices


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
        Processes that read a corpus, in addition to the one that trains.
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

    def arguments(self) -> Arguments:
        """Arguments of the package's functions: those that were given, and the seed."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        further = given.pop("more", {})
        return {"rng": given.pop("seed"), **given, **further}


def _begin(command: str, network: Network, training: Training) -> Arguments:
    """Refuse names, devices and precision that cannot be; the arguments of training.

    Lightning's own news are left out from now on; what this package says through it stays.
    """
    from scbert_cll.model.training.devices import training_device
    from scbert_cll.model.training.options import Finetuning, Pretraining, check_network

    options = Pretraining if command == "pretrain" else Finetuning
    check_network(network or {}, *(["preset"] if options is Finetuning else []))
    options.of("--more", {}, training.more or {})
    arguments = training.arguments()
    training_device(arguments)
    to_change("lightning").handlers.clear()  # the root has one, too
    to_change("lightning.fabric").setLevel(logging.WARNING)
    to_change("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: record.levelno > logging.INFO or _PACKAGE in Path(record.pathname).parents
    )
    return arguments


def pretrain(
    data: Path,
    *,
    out: Path,
    preset: Literal["small", "scbert"] = "small",
    network: Network = None,
    gene_embedding: Literal["auto", "gene2vec", "learned", "sinusoidal", "none"] = "auto",
    exclude_genes: Sequence[str] = (),
    split_key: str | None = None,
    reading: ReadingTokens,
    training: Training,
    overwrite: bool = False,
) -> None:
    """Learn from RNA alone: the network guesses hidden genes' bins from the rest of the cell.

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
    shared.free_model_folder(out, overwrite=overwrite)
    arguments = _begin("pretrain", network, training)
    cells = shared.source(data, reading, split_key=split_key)
    from scbert_cll import tl

    split: str | None = None
    tokens: Path | AnnData = data
    if isinstance(cells, Cells):
        split, tokens = _split(cells, split_key), shared.with_tokens(cells, reading)
    if gene_embedding == "auto":
        vectors = _keys.GENE2VEC in getattr(tokens, "varm", {})
        gene_embedding = "gene2vec" if vectors else "learned"
    model = tl.pretrain(
        tokens,
        preset=preset,
        exclude_genes=list(exclude_genes),
        split_key=split,
        gene_embedding=gene_embedding,
        network=network,
        **arguments,
    )
    if shared.first_process():
        _save(model, shared.learned(model), out, overwrite=overwrite)


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
    network: Network = None,
    exclude_genes: Sequence[str] = (),
    reading: ReadingTokens,
    training: Training,
    overwrite: bool = False,
) -> None:
    """Learn labels: a classifier of cells, and a logistic regression on the same cells.

    Only cells of the part train are learned from and only cells of val are used to choose, so the
    scores of test cells are honest. They are printed with those of the logistic regression, without
    which the worth of the network is not known.

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
    shared.free_model_folder(out, overwrite=overwrite)
    arguments = _begin("finetune", network, training)
    from scbert_cll import ScBERT, tl

    start = None if pretrained is None else ScBERT.load(pretrained)
    keys = {"labels_key": labels_key, "split_key": split_key, "weight_key": weight_key}
    cells = shared.source(data, reading, **keys)
    tokens: Path | AnnData = data
    columns: Arguments = {}
    if isinstance(cells, Cells):
        split = _split(cells, split_key, labels_key)
        if split is None:
            raise KeyError(
                "There is no split. Name its obs column with --split-key, or the donors with "
                "--donor-key, and they are held out now."
            )
        tokens = shared.with_tokens(cells, reading, start)
        # as pretrain's auto chooses
        if start is None and _keys.GENE2VEC not in tokens.varm:
            network = {"gene_embedding": "learned", **(network or {})}
        columns = {
            "split_key": split,
            "weight_key": cells.column(weight_key, _keys.BALANCE_WEIGHT),
            "protein_key": _proteins(cells, tokens, reading.protein_key),
            "donor_key": _donors(cells, reading),
        }
    classifier = tl.finetune(
        tokens,
        start,
        labels_key=labels_key,
        exclude_genes=list(exclude_genes),
        combine=combine,
        freeze=freeze,
        network=network,
        **columns,
        **arguments,
    )
    if shared.first_process():  # the others have no history
        if isinstance(tokens, Path):
            scores = _validated(classifier)
        else:
            scores = shared.table(tokens.uns[_keys.SCBERT]["comparison"])
        _save(classifier, scores, out, overwrite=overwrite)


def _donors(cells: Cells, reading: ReadingTokens) -> str | None:
    """The column that was named, else the usual one; where there is none, that is said."""
    if reading.donor_key is not None:
        return cells.donor_key
    donors = cells.column(None, _keys.DONOR)
    if donors is None:
        so = "so all cells count as one donor's"
        shared.say(f"There is no obs column {_keys.DONOR}, {so}.")
    return donors


def _split(cells: Cells, key: str | None, labels_key: str | None = None) -> str | None:
    """The column of the split; without one, donors that are known are held out now."""
    from scbert_cll import pp

    key = cells.column(key, _keys.SPLIT)
    if key is not None or cells.donor_key is None:
        return key
    pp.split_donors(
        cells.rna,
        cells.donor_key,
        labels_key=labels_key,
        fractions=(0.9, 0.1, 0.0) if labels_key is None else (0.7, 0.15, 0.15),
        mixed=labels_key is not None,
    )
    held_out = (_keys.VAL, _keys.TEST)
    parts = {part: shared.donors_in(cells.rna, part) for part in held_out}
    donors = "; ".join(f"{names} ({part})" for part, names in parts.items() if names)
    shared.say(f"There is no split, so donors are held out: {donors}.")
    return _keys.SPLIT


def _proteins(cells: Cells, tokens: AnnData, key: str | None) -> str | None:
    """The obsm of the protein counts; those of a modality are put there, without their names."""
    from scbert_cll._protein import cite_seq

    if key is not None and cells.rna_key is None:
        remedy = "Name the protein counts with --protein-key."
        key_in(key, tokens.obsm, "adata.obsm", remedy)
    elif key is not None:  # names may be anything
        proteins = cite_seq.find(cells.data, key, cells.rna_key)
        tokens.obsm[key] = proteins.values.toarray()
    return key


def _validated(model: ScBERTClassifier) -> str:
    """Scores of the network on donors that it has not learned from."""
    epoch = model.kept_epoch_
    values = ", ".join(
        f"{name.removesuffix('_validation')} {float(frame.iloc[:, 0][epoch]):.3f}"
        for name, frame in (model.history or {}).items()
        if "validation" in name and epoch in frame.index
    )
    if not values:
        return "No donor validates, so nothing is known of its worth."
    return (
        f"Donors held out, in epoch {epoch}, whose weights are kept: {values} (the network alone)."
    )


def _save(model: ScBERT | ScBERTClassifier, scores: str, out: Path, *, overwrite: bool) -> None:
    """Print the scores and write the model."""
    shared.say(scores)
    model.save(out, overwrite=overwrite)
    shared.say(f"The model is in {out}.")
