"""pp.collapse_probes: from the probes of an array to genes."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scbert_cll import _checks, _keys, _record
from scbert_cll._checks.words import choice, listed
from scbert_cll.pp._align_genes import of_cells

Method = Literal["max_mean", "mean"]
type Probes = pd.DataFrame | pd.Series | Mapping[str, Any] | str | PathLike[str]

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
        The probe that was taken; with ``"mean"`` all of them, separated by ``" /// "``.
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

        probes = pd.read_csv("hgu95A.csv", dtype=str)  # probe, entrez
        table = pd.read_csv("symbols.tsv", sep="\t", dtype=str).drop_duplicates("entrez")
        symbols = table.set_index("entrez")["symbol"]
        genes = collapse_probes(
            adata, dict(zip(probes["probe"], probes["entrez"].map(symbols)))
        )

    References
    ----------
    .. [1] Miller et al. (2011), Strategies for aggregating gene expression data: the collapseRows
       R function, BMC Bioinformatics 12:322, doi:10.1186/1471-2105-12-322.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> probes = {"2061_at": "ITGA4", "35731_at": "ITGA4", "100_g_at": "RABGGTA"}
    >>> array = AnnData(np.array([[5.0, 8.0, 3.0]]), var=pd.DataFrame(index=list(probes)))
    >>> genes = collapse_probes(array, probes)
    >>> genes.var["probe"].to_dict()
    {'ITGA4': '35731_at', 'RABGGTA': '100_g_at'}
    """
    params = _record.params(locals())
    adata = _checks.adata.anndata(adata)
    _checks.adata.new_key(key_added)
    choice(method, get_args(Method), "method")
    of_probe = _genes(adata, probes)
    named = pd.Series(adata.var_names, dtype=object).map(of_probe)
    gene = named.where(named.notna() & ~named.isin(_NO_GENE), "").to_numpy(dtype=object)
    is_one = np.array([bool(name) and not _SEVERAL.search(name) for name in gene])
    if not is_one.any():
        raise ValueError(
            f"No probe of adata has a gene. adata has {listed(adata.var_names, 3)}; the table has "
            f"{listed(of_probe.index, 3)}. Use the annotation of this platform; genes go from "
            "probe to gene, not the other way."
        )
    genes = pd.Index(gene[is_one]).unique()
    if np.mean([_NUMBER.fullmatch(name) is not None for name in genes]) > 0.5:
        warnings.warn(
            f"The genes of the probes look like Entrez ids ({listed(genes, 3)}), and a signature "
            "has symbols: map them first, as the notes of pp.collapse_probes say. They are taken "
            "as they are.",
            stacklevel=2,
        )
    x: Any = adata.X
    values = np.asarray(x.toarray() if sparse.issparse(x) else x, dtype=np.float64)
    table = pd.DataFrame({"at": np.flatnonzero(is_one), "gene": gene[is_one]})
    collapsed, var = _collapsed(values, table, adata.var_names, method)
    made = AnnData(collapsed, var=var, **of_cells(adata))
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
    if isinstance(probes, str) and probes in adata.var:
        genes = list(adata.var[probes])
        pairs = pd.DataFrame({"probe": adata.var_names, "gene": genes})
    elif isinstance(probes, pd.DataFrame):
        pairs = _pairs(probes)
    elif isinstance(probes, Mapping | pd.Series):
        pairs = pd.DataFrame(list(probes.items()), columns=["probe", "gene"])
    elif isinstance(probes, str | PathLike):
        path = Path(probes)
        usual = "," if ".csv" in path.suffixes else "\t"
        file, sep = _checks.files.open_table(path, comment="#")
        how: Any = {"dtype": str, "comment": "#", "keep_default_na": False}
        pairs = _pairs(pd.read_csv(file, sep=sep or usual, **how))
    else:
        raise TypeError(
            "probes is a DataFrame with 'probe' and 'gene', a mapping from probe to gene, the "
            "path of a table, or the name of a column of adata.var; found "
            f"{type(probes).__name__}."
        )
    names = [_checks.people.class_name(gene).strip() for gene in pairs["gene"]]
    names = ["" if name in _NO_GENE else name for name in names]
    pairs = pd.DataFrame({"probe": pairs["probe"].map(str), "gene": names})
    several = pairs.drop_duplicates().groupby("probe", sort=False)["gene"]
    return several.agg(lambda genes: " /// ".join(filter(None, genes)))


def _pairs(table: pd.DataFrame) -> pd.DataFrame:
    """Columns probe and gene."""
    for names in (["probe", "gene"], ["ID", "Gene Symbol"], list(table)):
        if set(names) <= set(table) and len(names) == 2:
            return table[names].set_axis(["probe", "gene"], axis=1)
    raise ValueError(
        "A table of probes must have the columns 'probe' and 'gene' (or GEO's 'ID' and 'Gene "
        f"Symbol'), or two columns, probe then gene; it has {listed(table.columns, 12)}."
    )


def _collapsed(
    values: np.ndarray, table: pd.DataFrame, names: pd.Index, method: Method
) -> tuple[np.ndarray, pd.DataFrame]:
    """Samples × genes, and the probes of each."""
    groups = table.groupby("gene", sort=False)["at"]
    n_probes = groups.size()
    index = pd.Index(list(n_probes.index), dtype=object)
    var = pd.DataFrame({"n_probes": n_probes.to_numpy(dtype=np.int64)}, index=index)
    part = values[:, table["at"]]
    is_measured = np.isfinite(part)
    filled = np.nan_to_num(part)
    if method == "max_mean":
        n_measured = is_measured.sum(axis=0)
        mean = np.full(len(table), -np.inf)
        np.divide(filled.sum(axis=0), n_measured, out=mean, where=n_measured > 0)
        # measured most often, then the most abundant, then the first
        ranked = table.assign(n=-n_measured, mean=-mean)
        ranked = ranked.sort_values(["n", "mean", "at"])
        best = ranked.drop_duplicates("gene").set_index("gene")["at"].reindex(var.index)
        return values[:, best], var.assign(probe=names[best].to_numpy(dtype=object))
    of_gene = var.index.get_indexer(pd.Index(table["gene"], dtype=object))
    entries = (np.ones(len(table)), (np.arange(len(table)), of_gene))
    place = sparse.csr_matrix(entries, shape=(len(table), len(var)))
    n, sums = is_measured.astype(np.float64) @ place, filled @ place
    mean = np.divide(sums, n, out=np.full_like(sums, np.nan), where=n > 0)
    probes = groups.agg(lambda at: " /// ".join(names[at]))
    return mean, var.assign(probe=probes.to_numpy(dtype=object))
