"""Options for reading a file of cells, and the cells that they choose.

Everything heavy is imported inside, so that asking a command for help is quick.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from scbert_cll import _keys
from scbert_cll._checks.words import choice, key_in, listed
from scbert_cll._cli.words import flag
from scbert_cll._process import same_random_state

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from anndata import AnnData
    from mudata import MuData

ENDINGS: Final = (".h5ad", ".h5mu", ".zarr")
ALL, CLL = "all", "cll"
NO_DONORS: Final = "none"
_X, _RAW = "X", "raw"
_MUDATA: Final = "mudata"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Which cells are read, and where things are.

    What is not given is looked for under its usual names.

    Parameters
    ----------
    modality
        Modality of an .h5mu with the RNA (default: the one with a usual name, such as rna).
    layer
        Where the raw counts are: X, the name of a layer, or raw for adata.raw (default: X).
    protein_key
        Where the raw protein counts are: obsm of an .h5ad, modality of an .h5mu (default: the one
        with a usual name, such as protein or adt).
    cells
        Cells to use: all, cll (CD19+CD5+ by protein), or the obs column of true and false that
        chooses them (default: all).
    donor_key
        obs column of donors; none: all cells are of one donor (default: donor for demo, signature
        and finetune; the others look at donors where this names them).
    """

    modality: str | None = None
    layer: str | None = None
    protein_key: str | None = None
    cells: str | None = None
    donor_key: str | None = None  # no column was named

    def given(self) -> list[str]:
        """Names of the options that were given."""
        return [f.name for f in fields(self) if getattr(self, f.name) != f.default]


@dataclass(frozen=True, kw_only=True)
class ReadingDonors(Reading):
    """The same for commands that need donors."""

    donor_key: str = _keys.DONOR


@dataclass(frozen=True, kw_only=True)
class ReadingTokens(Reading):
    """The same for commands that read tokens.

    Parameters
    ----------
    layer
        Layer of pp.bin_expression (default: binned, or the model's). Or where raw counts are, which
        are then binned: X, a layer, or raw for adata.raw.
    """


@dataclass
class Cells:
    """Cells that were read: the object to write results to, and where things are in it."""

    data: AnnData | MuData
    rna_key: str | None  # modality of a MuData
    layer: str | None = None  # raw counts; None is X
    donor_key: str | None = None
    news: list[str] = field(default_factory=list)

    @property
    def rna(self) -> AnnData:
        """The RNA: all, or a modality."""
        data: Any = self.data
        return cast("AnnData", data if self.rna_key is None else data.mod[self.rna_key])

    def column(self, key: str | None, usual: str) -> str | None:
        """The obs column that was named; else the usual one, where it is there."""
        return key or (usual if usual in self.rna.obs else None)

    def keep(self, mask: np.ndarray, news: str) -> None:
        """Keep some of the cells, and say so."""
        self.news.append(news)
        with shared_names():  # a MuData has an order of its own
            cells = mask if self.rna_key is None else self.rna.obs_names[mask]
            self.data = self.data[cells].copy()

    def leave_out(self, mask: np.ndarray, why: str) -> None:
        """Leave cells out, where there are any, and say why."""
        if mask.all():
            raise ValueError(f"All {len(mask):,} cells {why}.")
        if mask.any():
            self.keep(~mask, f"{int(mask.sum()):,} of {len(mask):,} cells {why}.")


def load(path: Path) -> AnnData | MuData:
    """Read a .h5ad or .h5mu, or a .zarr store of either.

    Raises
    ------
    FileNotFoundError, ValueError
        There is no such file, or it cannot be read.
    """
    from scbert_cll import _checks

    choice(path.suffix, ENDINGS, "The ending of a file of cells")
    _checks.files.plain_or_folder(path)
    import anndata as ad
    import mudata

    readers = {
        ".h5ad": ad.read_h5ad,
        ".h5mu": mudata.read_h5mu,
        ".zarr": mudata.read_zarr if _kind_of_zarr(path) == _MUDATA else ad.read_zarr,
    }
    try:
        with shared_names():
            return cast("AnnData | MuData", readers[path.suffix](path))
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read: {error}.") from error


def is_cells(path: Path) -> bool:
    """Whether a path is a file or store of cells, and not a corpus."""
    if path.suffix == ".zarr":
        return _kind_of_zarr(path) is not None
    return path.suffix in ENDINGS


def choose(
    data: AnnData | MuData,
    reading: Reading,
    columns: Mapping[str, str | Sequence[str] | None] = {},
    *,
    with_protein: bool = False,
    where: object = "The object",
) -> Cells:
    """RNA, counts, donors and chosen cells of an object in memory.

    Parameters
    ----------
    data, where
        The object, and how it is called.
    reading
        Options; a name that is not there is refused, with those that are.
    columns
        Further columns of `obs` by their options, which a MuData may have in its own `obs`.
    with_protein
        Whether protein is needed, so that cells without it are left out.

    Raises
    ------
    KeyError, ValueError
        A name that was given is not there, or no cell is left.
    """
    cells = Cells(data, _rna_key(data, reading.modality, where))
    _find_counts(cells, reading.layer)
    cells.donor_key = None if reading.donor_key == NO_DONORS else reading.donor_key
    cells_key = None if reading.cells in (None, ALL, CLL) else reading.cells
    obs, others = (cast("pd.DataFrame", part.obs) for part in (cells.rna, cells.data))
    columns = {"donor_key": cells.donor_key, "cells": cells_key, **columns}
    for option, keys in columns.items():
        for name in [keys] if isinstance(keys, str) else keys or ():
            if name not in obs and name in others:
                obs[name] = others[name].reindex(obs.index)
            or_none = f", or pass --donor-key {NO_DONORS} if all cells are of one donor"
            remedy = f"Name the column with {flag(option)}{or_none * (option == 'donor_key')}."
            key_in(name, obs, "adata.obs", remedy)
    if with_protein and cells.rna_key is not None:
        no_protein = _lacks_protein(cells, reading.protein_key)
        cells.leave_out(no_protein, "have no protein and are left out")
    if cells.donor_key is not None:
        cells.leave_out(*_lacks_donor(cells.rna, cells.donor_key))
    if reading.cells in (None, ALL):
        return cells
    from scbert_cll._protein import cite_seq
    from scbert_cll.pp import cll_mask

    if cells_key is None:
        what = "CD19+CD5+ by protein"
        key, rna_key = reading.protein_key, cells.rna_key
        mask = cll_mask(cells.data, protein_key=key, rna_key=rna_key).to_numpy()
    else:
        what = f"obs[{cells_key!r}]"
        mask = cite_seq.mask(cells.rna, cells.rna, cells_key)
    if not mask.any():
        raise ValueError(f"--cells chooses none of the {len(mask):,} cells ({what}).")
    number = f"{int(mask.sum()):,} of {len(mask):,} cells"
    cells.keep(mask, f"{what}: {number}; only these are used.")
    return cells


@contextmanager
def shared_names() -> Iterator[None]:
    """No warning of proteins named as genes, none of the user's random numbers drawn."""
    with same_random_state(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "var_names are not unique", UserWarning)
        yield


def _kind_of_zarr(path: Path) -> str | None:
    """Kind of object that a zarr store says it holds; None where it is not one of cells."""
    from scbert_cll._disk.formats import read_json

    for name, at in (("zarr.json", "attributes"), (".zattrs", None)):
        if (path / name).is_file():
            attributes = read_json(path / name)
            attributes = attributes if at is None else attributes.get(at, {})
            kind = str(attributes.get("encoding-type", "")).lower()
            return kind if kind in ("anndata", _MUDATA) else None
    return None


def _rna_key(data: AnnData | MuData, modality: str | None, where: object) -> str | None:
    """The modality of the RNA, by the name that was given or the one usual one."""
    from anndata import AnnData

    if isinstance(data, AnnData):
        if modality is not None:
            raise ValueError(f"{where} is one AnnData without modalities; leave --modality out.")
        return None
    if modality is not None:
        key_in(modality, data.mod, "mdata.mod", "Name the RNA with --modality.")
        return modality
    usual = [name for name in _keys.RNA_KEYS if name in data.mod]
    if len(usual) != 1:
        why = f"several modalities that may be the RNA ({listed(usual)})"
        raise KeyError(
            f"{where} has {why if usual else 'no RNA by its usual name'}; it has the modalities "
            f"{listed(data.mod, 12)}. Name the RNA with --modality."
        )
    return usual[0]


def _find_counts(cells: Cells, layer: str | None) -> None:
    """Set the layer of the counts; those of `raw` become X, since they have genes of their own."""
    rna = cells.rna
    if layer is None or layer in rna.layers:
        cells.layer = layer
        return
    if layer == _X:
        return
    if layer != _RAW:
        also = f"{_X} is a place" if rna.raw is None else f"{_X} and {_RAW} are places"
        remedy = f"Name the place of the counts with --layer; {also}, too."
        key_in(layer, rna.layers, "adata.layers", remedy)
    if rna.raw is None:
        raise KeyError(
            "'raw' is not there: adata.raw is empty. Name another place of the counts with --layer."
        )
    whole: AnnData = rna.raw.to_adata()
    if cells.rna_key is None:
        cells.data = whole
        return
    from mudata import MuData

    before = cast("MuData", cells.data)
    with shared_names():
        cells.data = MuData({**before.mod, cells.rna_key: whole})
    obs = cast("pd.DataFrame", before.obs)
    further = obs.columns.difference(cells.data.obs.columns, sort=False)
    cells.data.obs = cells.data.obs.join(obs[further])


def _lacks_protein(cells: Cells, protein_key: str | None) -> np.ndarray:
    """Cells that the protein modality lacks; none without one such modality (refused later)."""
    mods, names = cast("MuData", cells.data).mod, cells.rna.obs_names
    keys = [key for key in _keys.PROTEIN_KEYS if key in mods]
    keys = keys if protein_key is None else [protein_key]
    measured = mods[keys[0]].obs_names if len(keys) == 1 and keys[0] in mods else names
    return cast("np.ndarray", ~names.isin(measured))


def _lacks_donor(rna: AnnData, key: str) -> tuple[np.ndarray, str]:
    """Cells without a donor, and the words that the column has for them."""
    from scbert_cll import _checks

    column = cast("pd.DataFrame", rna.obs)[key]
    people = _checks.people.donors(rna, key, allow_missing=True, quiet=True)
    mask = people.isna().to_numpy()
    words = column.astype(object).where(column.notna(), "missing")[mask].value_counts()
    numbers = ", ".join(f"{word}: {n:,}" for word, n in words.head(8).items())
    return mask, f"have no donor in obs[{key!r}] ({numbers}) and are left out"
