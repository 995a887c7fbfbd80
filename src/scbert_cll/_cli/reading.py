"""Which cells of a file are read, and where in it a command finds what it needs: one declaration, one way to apply it.

Everything heavy is imported inside, so that asking a command for help is quick.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from scbert_cll import _keys
from scbert_cll._checks.words import choice, key_in, listed
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
SIGNATURE_FILES: Final = ("signature.csv", "signature.json", "signature.gmt")
# What the demo writes
OUTPUTS: Final = (
    *("report.md", "report.json", "model", "annotated.h5ad", "annotated.h5mu"),
    *(*SIGNATURE_FILES, "gene_attention.csv", "figures"),
)
_KINDS: Final = {"anndata": "AnnData", "mudata": "MuData"}  # a zarr store says what it holds


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
        obs column of donors (default: donor); none: all cells are of one donor.
    """

    modality: str | None = None
    layer: str | None = None
    protein_key: str | None = None
    cells: str | None = None
    donor_key: str | None = None

    def given(self) -> list[str]:
        """Names of what was asked for."""
        return [f.name for f in fields(Reading) if getattr(self, f.name) is not None]


@dataclass(frozen=True, kw_only=True)
class ReadingTokens(Reading):
    """The same for commands that read tokens.

    Parameters
    ----------
    layer
        Layer of pp.bin_expression (default: binned, or the model's). Or where raw counts are, which
        are then binned: X, a layer, or raw for adata.raw.
    donor_key
        obs column of donors (default: donors are not told apart).
    """


@dataclass
class Cells:
    """Cells that were read: the object to write results to, and where things are in it."""

    data: AnnData | MuData
    rna: AnnData
    rna_key: str | None  # modality of a MuData
    layer: str | None  # raw counts; None is X
    donor_key: str | None
    news: list[str] = field(default_factory=list)


def read(
    path: Path, asked: Reading, *, columns: Iterable[str | None] = (), with_protein: bool = False
) -> Cells:
    """Read a file of cells and choose among them.

    Parameters
    ----------
    path
        .h5ad or .h5mu, or a .zarr store of either.
    asked
        What the user asked for; a name that is not there is refused, with those that are.
    columns
        Further columns of `obs` that the command needs, which a MuData may have in its own `obs`.
    with_protein
        Whether protein is needed, so that cells without it are left out.

    Raises
    ------
    FileNotFoundError, KeyError, ValueError
        There is no such file, it cannot be read, or something that was asked for is not in it.
    """
    return choose(load(path), asked, columns=columns, with_protein=with_protein, where=str(path))


def load(path: Path) -> AnnData | MuData:
    """Read a file of cells as it is."""
    from scbert_cll import _checks

    choice(path.suffix, ENDINGS, "The ending of a file of cells")
    _checks.paths.plain_or_folder(path)
    import anndata as ad
    import mudata

    readers = {
        ".h5ad": ad.read_h5ad,
        ".h5mu": mudata.read_h5mu,
        ".zarr": mudata.read_zarr if _kind_of_zarr(path) == _KINDS["mudata"] else ad.read_zarr,
    }
    try:
        with shared_names():
            return cast("AnnData | MuData", readers[path.suffix](path))
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} cannot be read: {error}.") from error


def is_cells(path: Path) -> bool:
    """Whether a path is a file or store of cells, and not a corpus."""
    return path.suffix in ENDINGS and (path.suffix != ".zarr" or _kind_of_zarr(path) is not None)


def choose(
    data: AnnData | MuData,
    asked: Reading,
    *,
    columns: Iterable[str | None] = (),
    with_protein: bool = False,
    where: str = "The object",
) -> Cells:
    """Find the RNA, its counts, its donors and the chosen cells of an object in memory."""
    rna_key, rna = _rna(data, asked.modality, where)
    donor_key = None if asked.donor_key == NO_DONORS else asked.donor_key
    cells_key = None if asked.cells in (None, ALL, CLL) else asked.cells
    named = [key for key in (donor_key, cells_key, *columns) if key is not None]
    layer, data, rna = _counted(data, rna, rna_key, asked.layer)
    _take_columns(data, rna, named)
    found = Cells(data, rna, rna_key, layer, donor_key)
    _columns_there(rna, {"--donor-key": donor_key, "--cells": cells_key})
    if with_protein and rna_key is not None:
        _keep(found, _has_protein(found, asked.protein_key), "have no protein and are left out")
    if donor_key is not None:
        _keep(found, *_has_donor(found.rna, donor_key))
    if asked.cells == CLL:
        from scbert_cll import pp

        mask = pp.cll_mask(found.data, protein_key=asked.protein_key, rna_key=rna_key).to_numpy()
        _use(found, mask, "CD19+CD5+ by protein")
    elif cells_key is not None:
        from scbert_cll.pp import _protein

        _use(found, _protein.mask(found.rna, found.rna, cells_key), f"obs[{cells_key!r}]")
    return found


@contextmanager
def shared_names() -> Iterator[None]:
    """No warning of a protein that has its gene's name, and none of the user's random numbers for names of mudata's."""
    with same_random_state(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="var_names are not unique", category=UserWarning)
        yield


def _kind_of_zarr(path: Path) -> str | None:
    """What a zarr store says it holds, if it holds cells."""
    from scbert_cll._disk.formats import read_json

    for name, at in (("zarr.json", "attributes"), (".zattrs", None)):
        if (path / name).is_file():
            attributes = read_json(path / name)
            kind = (attributes if at is None else attributes.get(at, {})).get("encoding-type", "")
            return _KINDS.get(str(kind).lower())
    return None


def _rna(data: AnnData | MuData, modality: str | None, where: str) -> tuple[str | None, AnnData]:
    """The RNA, by the name that was given or the one usual one."""
    from anndata import AnnData

    if isinstance(data, AnnData):
        if modality is not None:
            raise ValueError(f"{where} is one AnnData without modalities; leave --modality out.")
        return None, data
    if modality is not None:
        key_in(modality, data.mod, "mdata.mod", "Name the RNA with --modality.")
        return modality, data.mod[modality]
    found = [name for name in _keys.RNA_KEYS if name in data.mod]
    if len(found) != 1:
        why = (
            f"several modalities that may be the RNA ({listed(found)})"
            if found
            else "no RNA by its usual name"
        )
        raise KeyError(
            f"{where} has {why}; it has the modalities {listed(data.mod, 12)}. Name "
            f"the RNA with --modality."
        )
    return found[0], data.mod[found[0]]


def _counted(
    data: AnnData | MuData, rna: AnnData, rna_key: str | None, layer: str | None
) -> tuple[str | None, AnnData | MuData, AnnData]:
    """The layer of the counts; those of `raw` become X, since they have genes of their own."""
    if layer is None or layer in rna.layers:
        return layer, data, rna
    if layer == _X:
        return None, data, rna
    if layer != _RAW:
        also = (
            f"{_X} and {_RAW} are places, too" if rna.raw is not None else f"{_X} is a place, too"
        )
        key_in(
            layer, rna.layers, "adata.layers", f"Name the place of the counts with --layer; {also}."
        )
    if rna.raw is None:
        raise KeyError(
            "'raw' is not there: adata.raw is empty. Name another place of the counts with --layer."
        )
    whole: AnnData = rna.raw.to_adata()
    if rna_key is None:
        return None, whole, whole
    from mudata import MuData

    mods, obs = cast("MuData", data).mod, cast("pd.DataFrame", data.obs)
    with shared_names():
        mdata = MuData({name: whole if name == rna_key else part for name, part in mods.items()})
    mdata.obs = mdata.obs.join(obs[[name for name in obs if name not in mdata.obs]])
    return None, mdata, mdata.mod[rna_key]


def _take_columns(data: AnnData | MuData, rna: AnnData, named: Iterable[str]) -> None:
    """Columns that a MuData has in its own obs, to where every step looks for them."""
    own, others = cast("pd.DataFrame", rna.obs), cast("pd.DataFrame", data.obs)
    for key in named:
        if key not in own and key in others:
            own[key] = others[key].reindex(own.index)


def _columns_there(rna: AnnData, options: dict[str, str | None]) -> None:

    for option, key in options.items():
        if key is not None:
            alone = (
                f", or pass {option} {NO_DONORS} if all cells are of one donor"
                if option == "--donor-key"
                else ""
            )
            key_in(key, rna.obs, "adata.obs", f"Name the column with {option}{alone}.")


def _has_protein(found: Cells, protein_key: str | None) -> np.ndarray:
    """Cells that the protein modality has, too.

    All where there is no one such modality, which is for later to refuse.
    """
    mods, cells = cast("MuData", found.data).mod, found.rna.obs_names
    there = (
        [key for key in _keys.PROTEIN_KEYS if key in mods] if protein_key is None else [protein_key]
    )
    one = len(there) == 1 and there[0] in mods
    return cast("np.ndarray", cells.isin(mods[there[0]].obs_names if one else cells))


def _has_donor(rna: AnnData, key: str) -> tuple[np.ndarray, str]:
    """Cells of a donor, and what the column says of the others."""
    from scbert_cll import _checks

    column = cast("pd.DataFrame", rna.obs)[key]
    there = _checks.people.donors(rna, key, allow_missing=True, quiet=True).notna().to_numpy()
    words = column[~there].astype(object).where(column[~there].notna(), "missing").value_counts()
    told = ", ".join(f"{word}: {n:,}" for word, n in words.head(8).items())
    return there, f"have no donor in obs[{key!r}] ({told}) and are left out"


def _use(found: Cells, mask: np.ndarray, what: str) -> None:
    """Keep chosen cells, and say how many."""
    if not mask.any():
        raise ValueError(f"--cells chooses none of the {len(mask):,} cells ({what}).")
    found.news.append(f"{what}: {int(mask.sum()):,} of {len(mask):,} cells; only these are used.")
    _subset(found, mask)


def _keep(found: Cells, mask: np.ndarray, why: str) -> None:
    """Leave cells out, and say so."""
    if mask.all():
        return
    if not mask.any():
        raise ValueError(f"All {len(mask):,} cells {why}.")
    found.news.append(f"{int((~mask).sum()):,} of {len(mask):,} cells {why}.")
    _subset(found, mask)


def _subset(found: Cells, mask: np.ndarray) -> None:
    data: Any = found.data
    if found.rna_key is None:
        found.data = found.rna = data[mask].copy()
        return
    with shared_names():
        found.data = data[found.rna.obs_names[mask]].copy()
    found.rna = found.data.mod[found.rna_key]
