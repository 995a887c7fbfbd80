"""What the commands share: where cells come from, what may be replaced, and what is said."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from scbert_cll import _keys

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from scbert_cll.model import ScBERT, ScBERTClassifier

Value = int | float | bool | str
Accelerator = Literal["auto", "cpu", "gpu"]

_log = logging.getLogger(__name__)
_PACKAGE: Final = Path(__file__).parent
CELLS: Final = (".h5ad", ".h5mu")


def source(path: Path) -> Path | AnnData:
    """Cells in memory, or a corpus, which stays on disk; a damaged one is refused now."""
    from scbert_cll import _checks
    from scbert_cll._corpus.format import open_corpus

    if path.suffix in CELLS:
        return read_cells(path)
    if path.is_file():
        _checks.choice(path.suffix, CELLS, "What is no corpus must be a file of cells: its ending")
    open_corpus(path)
    return path


def read_cells(path: Path) -> AnnData:
    """Read the cells of a file, of several modalities the RNA.

    Raises
    ------
    FileNotFoundError, KeyError, ValueError
        There is no such file, it has no RNA, or it cannot be read.
    """
    from scbert_cll import _checks

    _checks.choice(path.suffix, CELLS, "The ending of a file of cells")
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    import anndata as ad
    import mudata

    try:
        if path.suffix == ".h5ad":
            return ad.read_h5ad(path)
        modalities = mudata.read_h5mu(path).mod
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}.") from error
    found = [name for name in _keys.RNA_KEYS if name in modalities]
    if not found:
        raise KeyError(
            f"{path} has no RNA: expected a modality {_checks.listed(_keys.RNA_KEYS)}, found {_checks.listed(modalities)}."
        )
    rna: AnnData = modalities[found[0]]
    return rna


def model_folder(path: Path, *, overwrite: bool) -> None:
    """Refuse before the work what could not be written after it."""
    if path.exists() and not overwrite:
        raise FileExistsError(
            f"{path} exists. Name another folder with --out, or pass --overwrite to replace the model in it."
        )
    from scbert_cll.model import _io

    _io.may_replace(path, overwrite=overwrite)


def new_file(path: Path, ending: str, *, overwrite: bool) -> None:
    """A place for a file of this ending."""
    from scbert_cll import _checks

    _checks.choice(path.suffix, (ending,), "The ending of --out")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists. Name another file with --out, or pass --overwrite to replace it.")


def save(model: ScBERT | ScBERTClassifier, path: Path, *, overwrite: bool) -> None:
    """Write a model, where several processes trained it by the first of them."""
    if not first_process():
        return
    model.save(path, overwrite=overwrite)
    say(f"The model is in {path}.")


def say(text: str) -> None:
    """Print, where several processes run by the first of them."""
    if first_process():
        _log.info(text)


def first_process() -> bool:
    """Whether this is the one that writes."""
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    return int(getattr(rank_zero_only, "rank", 0)) == 0


def table(frame: pd.DataFrame) -> str:
    """Rows as text."""
    return frame.to_string(index=False, float_format="{:.3f}".format)


def only_our_news() -> None:
    """Leave out what Lightning says of itself; what this package says through it stays."""
    import lightning.pytorch  # noqa: F401 - sets its loggers up

    logging.getLogger("lightning").handlers.clear()  # the root has one, too
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    log = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    log.addFilter(lambda record: record.levelno > logging.INFO or _PACKAGE in Path(record.pathname).parents)


def known_choices(network: dict[str, Value] | None, *others: str) -> None:
    """Single choices of the network by their names."""
    from scbert_cll.model._base import check_network

    check_network(network or {}, *others)


def known_device(accelerator: Accelerator) -> None:
    """A device that is here."""
    from scbert_cll.model._asked import device_of

    device_of(accelerator)


def learned(model: ScBERT) -> str:
    """What pretraining came to, beside what costs nothing."""
    best = {name: float(frame.iloc[:, 0].max()) for name, frame in (model.history or {}).items() if "accuracy" in name}
    part = "validation" if "masked_accuracy_validation" in best else "train"
    return (
        f"{best[f'masked_accuracy_{part}']:.1%} of hidden genes in the right bin at best ({part}); "
        f"guessing each cell's commonest bin gets {best[f'majority_accuracy_{part}']:.1%}."
    )


def validated(model: ScBERTClassifier) -> str:
    """What the network came to on donors that it has not learned from."""
    last = {
        name.removesuffix("_validation"): float(frame.iloc[-1, 0])
        for name, frame in (model.history or {}).items()
        if "validation" in name
    }
    if not last:
        return "No donor validates, so nothing is known of its worth."
    return f"Donors held out, in the last epoch: {', '.join(f'{name} {value:.3f}' for name, value in last.items())} (the network alone)."
