"""pp.collapse_probes: from the probes of an array to genes."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from copy import deepcopy
from os import PathLike
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scbert_cll import _checks, _keys, _record
from scbert_cll._checks.words import choice, listed

Method = Literal["max_mean", "mean"]
type Probes = pd.DataFrame | pd.Series | Mapping[str, Any] | str | PathLike[str]

_METHODS: Final = ("max_mean", "mean")
_SEVERAL: Final = re.compile(r"//+|[;,|]")
_NO_GENE: Final = frozenset(("", "nan", "NaN", "None", "NA", "<NA>", "---", "--"))
_NUMBER: Final = re.compile(r"\d+(\.0)?")


def collapse_probes(
    adata: AnnData,
    probes: Probes,
    *,
    method: Method = "max_mean",
    key_added: str = _keys.COLLAPSE_PROBES,
) -> AnnData:
    r"""Bring an array from probes to genes.

    A gene has several probes, and they do not measure equally well. The most abundant one is taken,
    which agrees best between platforms [1]_; the outcome plays no part. A probe that may be of
    several genes, or of none that is known, is left out and counted.

    Parameters
    ----------
    adata
        Samples × probes, on a log scale. NaN is allowed.
    probes
        The gene of each probe: a DataFrame or the path of a table (``.csv``, ``.tsv``, compressed
        or not; lines with ``#`` are skipped) with the columns ``probe`` and ``gene``, or GEO's
        ``ID`` and ``Gene Symbol``, or two columns in this order; a mapping; or the name of a column
        of `adata.var`.
    method
        ``"max_mean"``: the probe with the fewest missing values, of these the one with the highest
        mean, of these the first. ``"mean"``: the mean of the probes in each sample, of those that
        were measured.
    key_added
        Name of the record in `uns`.

    Returns
    -------
    A new AnnData of the samples of `adata` × genes, in the order in which genes first appear;
    `adata` stays as it is. ``X`` is float64 and dense; ``obs``, ``obsm``, ``obsp`` and ``uns`` are
    carried over, layers and what belonged to probes are not.

    ``adata.var['probe']`` : str
        The probe that was taken; with ``"mean"`` all of them, parted by ``" /// "``.
    ``adata.var['n_probes']`` : int64
        Probes of the gene.
    ``adata.uns['collapse_probes']`` : dict
        ``n_probes`` (in the data), ``n_genes``, ``several_genes`` and ``no_gene`` (probes that were
        left out, by name), ``params``.

    Raises
    ------
    TypeError
        `probes` is something else.
    ValueError
        No probe has a gene, the table has other columns, or a probe is twice in `adata`.

    Warns
    -----
    UserWarning
        The genes look like Entrez ids; a signature has symbols.

    Notes
    -----
    Entrez ids become symbols with a table of NCBI, before::

        probes = pd.read_csv("hgu95A.csv", dtype=str)  # probe, entrez symbols =
        pd.read_csv("symbols.tsv", sep="\t",
        dtype=str).drop_duplicates("entrez").set_index("entrez")["symbol"] genes =
        collapse_probes(adata, dict(zip(probes["probe"], probes["entrez"].map(symbols))))

    References
    ----------
    .. [1] Miller et al. (2011), Strategies for aggregating gene expression data: the collapseRows R function, BMC Bioinformatics 12:322,
       doi:10.1186/1471-2105-12-322.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> array = AnnData(np.array([[5.0, 8.0, 3.0]]), var=pd.DataFrame(index=["2061_at", "35731_at", "100_g_at"]))
    >>> genes = collapse_probes(array, {"2061_at": "ITGA4", "35731_at": "ITGA4", "100_g_at": "RABGGTA"})
    >>> genes.var["probe"].to_dict()
    {'ITGA4': '35731_at', 'RABGGTA': '100_g_at'}
    """
    params = _record.params(locals())
    adata = _checks.adata.anndata(adata)
    _checks.slots.new_key(key_added)
    choice(method, _METHODS, "method")
    of_probe = _genes(adata, probes)
    found = pd.Series(adata.var_names, dtype=object).map(of_probe)
    gene = found.where(~found.isin(["", *_NO_GENE]) & found.notna(), "").to_numpy(dtype=object)
    is_one = np.array([bool(name) and not _SEVERAL.search(name) for name in gene])
    _checks.cohorts.annotated_probes(int(is_one.sum()), adata.var_names, of_probe.index)
    _tell_ids(pd.Index(gene[is_one]).unique())
    held: Any = adata.X
    values = np.asarray(held.toarray() if sparse.issparse(held) else held, dtype=np.float64)
    table = pd.DataFrame({"at": np.flatnonzero(is_one), "gene": gene[is_one]})
    collapsed, var = _collapsed(values, table, adata.var_names, method)
    made = AnnData(collapsed, var=var, **_of_samples(adata))
    record = {
        "n_probes": adata.n_vars,
        "n_genes": made.n_vars,
        "several_genes": adata.var_names[(gene != "") & ~is_one].to_numpy(dtype=object),
        "no_gene": adata.var_names[gene == ""].to_numpy(dtype=object),
        "params": params,
    }
    _record.write(made, uns={key_added: record})
    return made


def _genes(adata: AnnData, probes: Probes) -> pd.Series:
    """The gene of each probe as text; of a probe with several, all of them."""
    _checks.cohorts.probe_source(probes)
    if isinstance(probes, str) and probes in adata.var:
        pairs = pd.DataFrame({"probe": adata.var_names, "gene": adata.var[probes].to_numpy()})
    elif isinstance(probes, pd.DataFrame):
        pairs = _pairs(probes)
    elif isinstance(probes, Mapping | pd.Series):
        pairs = pd.DataFrame(list(probes.items()), columns=["probe", "gene"])
    else:
        path = Path(probes)
        usual = "," if ".csv" in path.suffixes else "\t"
        file, found = _checks.text.open_table(path, comment="#")
        pairs = _pairs(
            pd.read_csv(file, sep=found or usual, dtype=str, comment="#", keep_default_na=False)
        )
    pairs = pd.DataFrame(
        {"probe": pairs["probe"].map(str), "gene": [_text(gene) for gene in pairs["gene"]]}
    )
    several = pairs.drop_duplicates().groupby("probe", sort=False)["gene"]
    return several.agg(lambda genes: " /// ".join(gene for gene in genes if gene not in _NO_GENE))


def _pairs(table: pd.DataFrame) -> pd.DataFrame:
    """Columns probe and gene."""
    _checks.cohorts.probe_table(table)
    for names in (["probe", "gene"], ["ID", "Gene Symbol"]):
        if set(names) <= set(table):
            return table[names].set_axis(["probe", "gene"], axis=1)
    return table.set_axis(["probe", "gene"], axis=1)


def _text(gene: Any) -> str:
    """A name; 3676.0, as numbers are where some are missing, is 3676."""
    if isinstance(gene, float | np.floating) and gene.is_integer():
        return str(int(gene))
    return str(gene).strip()


def _tell_ids(genes: pd.Index) -> None:
    if np.mean([_NUMBER.fullmatch(gene) is not None for gene in genes]) > 0.5:
        warnings.warn(
            f"The genes of the probes look like Entrez ids ({listed(genes, 3)}), and "
            f"a signature has symbols: map them first, as the notes of "
            "pp.collapse_probes say. They are taken as they are.",
            stacklevel=3,
        )


def _collapsed(
    values: np.ndarray, table: pd.DataFrame, names: pd.Index, method: Method
) -> tuple[np.ndarray, pd.DataFrame]:
    """Samples × genes, and the probes of each."""
    groups = table.groupby("gene", sort=False)["at"]
    genes = pd.Index(list(groups.groups), dtype=object)
    var = pd.DataFrame(
        {"n_probes": groups.size().reindex(genes).to_numpy(dtype=np.int64)}, index=genes
    )
    if method == "max_mean":
        best = _best(values, table).reindex(genes).to_numpy(dtype=np.int64)
        return values[:, best], var.assign(probe=names[best].to_numpy(dtype=object))
    of_gene = genes.get_indexer(pd.Index(table["gene"], dtype=object))
    place = sparse.csr_matrix(
        (np.ones(len(table)), (np.arange(len(table)), of_gene)), shape=(len(table), len(genes))
    )
    part = values[:, table["at"]]
    n = np.isfinite(part).astype(np.float64) @ place
    sums = np.nan_to_num(part) @ place
    mean = np.divide(sums, n, out=np.full_like(sums, np.nan), where=n > 0)
    return mean, var.assign(
        probe=groups.agg(lambda at: " /// ".join(names[at])).reindex(genes).to_numpy(dtype=object)
    )


def _best(values: np.ndarray, table: pd.DataFrame) -> pd.Series:
    """The probe of each gene that is measured most often, then the most abundant, then the first."""
    part = values[:, table["at"]]
    measured = np.isfinite(part)
    mean = np.divide(
        np.nan_to_num(part).sum(axis=0),
        measured.sum(axis=0),
        out=np.full(len(table), -np.inf),
        where=measured.any(axis=0),
    )
    ranked = table.assign(missing=(~measured).sum(axis=0), mean=mean)
    ranked = ranked.sort_values(
        ["missing", "mean", "at"], ascending=[True, False, True], kind="stable"
    )
    return ranked.drop_duplicates("gene").set_index("gene")["at"]


def _of_samples(adata: AnnData) -> dict[str, Any]:
    """Copies of all that belongs to samples, not probes."""
    return {
        "obs": adata.obs.copy(),
        "obsm": {key: value.copy() for key, value in adata.obsm.items()},
        "obsp": {key: value.copy() for key, value in adata.obsp.items()},
        "uns": deepcopy(dict(adata.uns)),
    }
