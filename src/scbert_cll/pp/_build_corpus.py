from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from scipy import sparse

from scbert_cll import _checks, _keys
from scbert_cll._checks.words import choice, number_in, share
from scbert_cll._corpus import checks as corpus_checks
from scbert_cll._corpus.building import Building, donors_per_part, merged_columns, report
from scbert_cll._corpus.format import PARTS
from scbert_cll._corpus.plan import deal_donors, deal_runs, parts_of
from scbert_cll._corpus.scan import Request, Scan, labels
from scbert_cll._corpus.write import SOURCE, Job
from scbert_cll._disk.formats import digest
from scbert_cll._disk.left_overs import only_writer
from scbert_cll._settings import settings
from scbert_cll.pp._bin_expression import Method, Scheme, cut, cuts
from scbert_cll.vocab import Aliases, GeneVocab, Vocabulary, read_aliases


def build_corpus(
    paths: Iterable[str | PathLike[str]],
    out: str | PathLike[str],
    *,
    vocab: Vocabulary,
    layer: str | None = None,
    modality: str | None = None,
    cells: str | None = None,
    binned: bool = True,
    method: Method = "log2",
    n_bins: int = 5,
    target_sum: float = 1e4,
    edges: Mapping[str, Any] | None = None,
    aliases: Aliases | None = None,
    min_matched: float = 0.5,
    min_genes: int = 1,
    donor_key: str | None = "donor",
    obs_columns: Sequence[str] = (),
    val_fraction: float = 0.1,
    val_donors: Sequence[str] | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    memory: str | int = "1GB",
    rng: int = 0,
) -> pd.DataFrame:
    """Turn many files into one shuffled corpus on disk, larger than the memory may be.

    A model that learns from millions of cells reads them from disk, in random order, with the same
    genes in the same places. Every file goes through :func:`align_genes` and
    :func:`bin_expression`, block by block, and its cells are dealt at random to the datasets of two
    parts, ``train`` and ``val``, with every donor in one of them. All files are read and checked
    before the first cell is written. The corpus appears when it is whole; a build that was
    interrupted, or killed, goes on when it is called the same way, and ends in the same bytes.

    Parameters
    ----------
    paths
        Files with raw counts: ``.h5ad``, ``.h5mu`` (its RNA modality), ``.zarr`` (a folder with
        either) or 10x ``.h5`` (Cell Ranger 3 or later; symbols or ids, whichever the vocabulary
        has). Antibodies and others that ``feature_types`` tells of are left out, and named in the
        manifest. By cells (CSR or dense); a matrix by genes (CSC) must fit into `memory`.
    out
        Folder to make, e.g. ``corpus.zarr``. It is built in ``corpus.zarr.building`` beside it.
    vocab
        Genes of the corpus in order, as :func:`align_genes` takes them.
    layer
        Where the raw counts are; ``X`` if not given, ``"raw"`` for `adata.raw` with its own genes,
        if no layer is called so. 10x files have one matrix.
    modality
        Modality of an ``.h5mu`` with the RNA; the one with a usual name (such as ``rna``) if not
        given.
    cells
        ``obs`` column of true and false that chooses the cells to keep, in every file; all if not
        given.
    binned
        Store tokens (uint8); False stores raw counts (int32) of the vocabulary's genes.
    method, n_bins, target_sum
        How to bin, see :func:`bin_expression`. ``uniform`` and ``gene_quantile`` need `edges`.
    edges
        ``uns["binned"]`` of an object that was binned: cut as it was.
    aliases
        Alias → approved name, see :func:`align_genes`.
    min_matched
        Smallest share of the vocabulary that each file must have, 0 to 1.
    min_genes
        Cells with fewer expressed genes of the vocabulary, or without any token, are left out and
        counted.
    donor_key
        ``obs`` column of donors, called ``donor`` in the corpus; the same name in two files is the
        same donor, whether it is ``1``, ``1.0`` or ``"1 "`` there. Cells of no donor
        (``"doublet"``, ``"unassigned"``, see :doc:`/donors`) are left out, with a count. A 10x file
        has no `obs`: it is one donor with its own name. With None every file is. A ``.h5mu`` file
        may have the column in the `obs` of its RNA, or of the whole.
    obs_columns
        Columns of ``obs`` to keep: numbers, or categories, which are unified over the files;
        missing where a file has none. Categories keep the order that they have in the files, or are
        sorted where files differ in it.
    val_fraction
        Share of the cells to hold out, in whole donors; 0 for no validation part.
    val_donors
        Donors to hold out, instead of drawing them.
    on_error
        ``raise`` refuses all if any file cannot be used, naming each with its reason; ``skip``
        leaves such files out and warns.
    memory
        Data held at a time, ``"1GB"``, ``"500MB"`` or bytes; beside it the process needs some 0.7
        GB, and 16 bytes for each cell. More memory makes larger datasets: fewer files, and a better
        shuffle.
    rng
        Seed of parts and order, a whole number, since an interrupted build must draw the same
        again.

    Returns
    -------
    One row per file: ``file``, ``status`` (``used``, ``skipped``), ``n_cells``, ``n_kept``,
    ``n_genes``, ``n_matched`` (genes of the vocabulary), ``n_donors``, ``reason``.
    ``manifest.json`` in the folder has it, too, with checksums, parameters, versions, renamed genes
    and donors.

    Raises
    ------
    FileExistsError
        `out` exists, or the folder to build it in does and is not one of ours.
    FileNotFoundError
        A file does not.
    ValueError
        Files that cannot be used, parameters out of range, or an interrupted build of another call
        in the way.
    KeyError
        No file has a column of `obs_columns`, or no cell a donor of `val_donors`.
    OSError
        The disk is full. The build goes on when it is called again.
    ImportError
        annbatch is not installed (``pip install 'scbert-cll[corpus]'``).

    Examples
    --------
    >>> import scbert_cll as sc_cll
    >>> from tempfile import mkdtemp
    >>> folder = mkdtemp()
    >>> rna = sc_cll.datasets.cll_toy(n_cells=200, n_genes=200)["rna"]
    >>> rna.write_h5ad(f"{folder}/a.h5ad")
    >>> table = sc_cll.pp.build_corpus([f"{folder}/a.h5ad"], f"{folder}/corpus.zarr", vocab=rna)
    >>> table[["file", "status", "n_cells"]]
         file status  n_cells
    0  a.h5ad   used      200
    """
    corpus_checks.corpus_extra()
    files, out, genes = corpus_checks.source_files(paths), Path(out), GeneVocab.of(vocab)
    columns = [obs_columns] if isinstance(obs_columns, str) else list(obs_columns)
    call: dict[str, Any] = {
        "binned": binned,
        "min_matched": min_matched,
        "min_genes": min_genes,
        "val_fraction": val_fraction,
    }
    call |= {"modality": modality, "cells": cells}
    call |= {
        "layer": layer or "X",
        "donor_key": donor_key,
        "obs_columns": columns,
        "val_donors": val_donors,
    }
    call |= {
        "not_donors": sorted(settings.not_donors),
        "on_error": on_error,
        "rng": rng,
        "memory": corpus_checks.memory_size(memory),
    }
    _checked(call, len(genes))
    scheme = Scheme(method, n_bins, target_sum)
    binning = cuts(genes.names, scheme, edges) if binned else None
    if binning is not None:
        binning["params"]["layer"] = layer or "X"
    known = None if aliases is None else read_aliases(aliases)
    call |= {"vocab": _digest(genes.names), "binning": _digest(binning), "aliases": _digest(known)}
    corpus_checks.new_folder(out)
    request = Request(
        vocab=genes,
        cut=_stored if binning is None else partial(cut, record=binning),
        n_bins=n_bins if binning is None else binning["params"]["n_bins"],
        layer=layer,
        aliases=known,
        min_matched=min_matched,
        min_genes=min_genes,
        donor_key=donor_key,
        obs_columns=columns,
        memory=call["memory"],
        modality=modality,
        cells=cells,
    )
    folder = Building(out.with_name(f"{out.name}.building"))
    folder.claim()
    with only_writer(folder.folder, "the corpus"):
        corpus_checks.new_folder(out)
        table = _build(folder, files, request, call, binning, out)
    corpus_checks.warn_of_skipped(dict(zip(table["file"], table["reason"], strict=True)))
    return table


def _checked(call: Mapping[str, Any], n_genes: int) -> None:
    """Parameters within their limits."""
    choice(call["on_error"], ("raise", "skip"), "on_error")
    share(call["val_fraction"], "val_fraction")
    share(call["min_matched"], "min_matched")
    number_in(call["min_genes"], "min_genes", 1, n_genes, whole=True)
    number_in(call["rng"], "rng", 0, 2**63, whole=True)
    corpus_checks.new_columns(call["obs_columns"], (_keys.DONOR, SOURCE))


def _build(
    folder: Building,
    files: list[Path],
    request: Request,
    call: dict[str, Any],
    binning: dict[str, Any] | None,
    out: Path,
) -> pd.DataFrame:
    """Read everything, plan, write, and put the whole in its place."""
    names = labels(files)
    folder.begin({"files": names, **call})
    scans, bad = folder.scan(files, names, request, call)
    reasons = {names[i]: bad[i] for i in sorted(bad)}
    if call["on_error"] == "raise":
        corpus_checks.no_bad_files(reasons, len(files))
    corpus_checks.some_cells(
        sum(scan.record["n_kept"] for scan in scans.values()),
        len(files),
        reasons,
        request.min_genes,
    )
    job, held = _planned(folder, scans, files, request, call)
    runs = {
        part: deal_runs(
            scans, job.parts, part, memory=request.memory, dtype=job.dtype, seed=job.seed
        )
        for part in PARTS
    }

    folder.put_small(request.vocab, binning)
    parts = folder.write(runs, job)
    table = report(names, scans, bad)
    record = {
        "n_genes": len(request.vocab),
        "binning": None if binning is None else _plain(binning),
        "parts": parts,
        "donors": donors_per_part(scans, held),
        "obs_columns": job.columns,
        "sources": [
            {k: v for k, v in scan.record.items() if k not in ("asked", "columns", "order")}
            for scan in scans.values()
        ],
        "skipped": [{"file": name, "reason": reason} for name, reason in reasons.items()],
        "params": call,
    }
    folder.finish(record, out)
    return table


def _planned(
    folder: Building,
    scans: dict[int, Scan],
    files: list[Path],
    request: Request,
    call: Mapping[str, Any],
) -> tuple[Job, list[str]]:
    """What datasets are made from, and the donors that are held out."""
    columns = merged_columns(scans, request.obs_columns)
    cells: Counter[str] = Counter()
    for scan in scans.values():
        cells.update(scan.record["donors"])
    not_donors: Counter[str] = Counter()
    for scan in scans.values():
        not_donors.update(scan.record["not_donors"])
    where = f"obs[{request.donor_key!r}]"
    _checks.people.warn_of_not_donors(not_donors, _checks.people.people_of(cells)[1], where)
    _checks.people.warn_of_alike([name for name, n in cells.items() if n], where)
    held = deal_donors(cells, call["val_fraction"], call["val_donors"], call["rng"])
    parts = {i: parts_of(scan, held) for i, scan in scans.items()}
    donors = sorted(name for name, n in cells.items() if n)
    job = Job(
        request, files, scans, folder.stamps, parts, donors, columns, call["rng"], call["binned"]
    )
    return job, held


def _stored(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Raw counts as they are stored."""
    corpus_checks.counts_fit(counts)
    return counts


def _plain(binning: Mapping[str, Any]) -> dict[str, Any]:
    """What fits into the manifest: edges of every gene have a file of their own."""
    edges = binning["edges"]
    return {"params": binning["params"]} | (
        {} if isinstance(edges, pd.DataFrame) else {"edges": list(edges)}
    )


def _digest(value: Any) -> str | None:
    """Checksum of what is too long for a record of parameters."""
    if value is None:
        return None
    if isinstance(value, Mapping) and isinstance(value.get("edges"), pd.DataFrame):
        value = {**value, "edges": value["edges"].to_csv()}
    if isinstance(value, Mapping):
        return digest({k: sorted(v) if isinstance(v, frozenset) else v for k, v in value.items()})
    return digest(list(value))
