from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from scipy import sparse

from scbert_cll import _binning, _checks, _docs, _keys
from scbert_cll._binning import Method, Scheme
from scbert_cll._checks.words import choice, listed, number_in, share
from scbert_cll._corpus import write
from scbert_cll._corpus.building import Building
from scbert_cll._corpus.format import PARTS, SOURCE
from scbert_cll._corpus.scan import Request, Scan, memory_size, source_files
from scbert_cll._disk.formats import Json
from scbert_cll._disk.left_overs import claim, only_writer
from scbert_cll._optional import require
from scbert_cll.vocab import Aliases, GeneVocab, Vocabulary, read_aliases


@_docs.shared
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
    edges: Mapping[str, object] | None = None,
    gene_key: str | None = None,
    aliases: Aliases | None = None,
    min_counts: float | None = None,
    min_matched: float | None = None,
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
    gene_key, aliases
        Column of ``var`` with the names of genes, and alias → approved name, see
        :func:`align_genes`.
    min_counts, min_matched
        Smallest shares of the counts of each file that the vocabulary must hold, and of the
        vocabulary that each file must have, 0 to 1; by default half of either, see
        :func:`align_genes`.
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
    %(no_annbatch)s

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
    require("annbatch", "A corpus")
    files, out, genes = source_files(paths), Path(out), GeneVocab.of(vocab)
    columns = [obs_columns] if isinstance(obs_columns, str) else list(obs_columns)
    n_bytes = memory_size(memory)
    choice(on_error, ("raise", "skip"), "on_error")
    share(val_fraction, "val_fraction")
    _checks.genes.Needed(min_counts, min_matched)
    number_in(min_genes, "min_genes", 1, len(genes), whole=True)
    number_in(rng, "rng", 0, 2**63, whole=True)
    if taken := [name for name in columns if name in (_keys.DONOR, SOURCE)]:
        raise ValueError(
            f"obs_columns names {listed(taken)}, which every corpus has (the donor of donor_key, "
            f"and the file); leave it out."
        )
    binning = None
    if binned:
        binning = _cuts(genes, Scheme(method, n_bins, target_sum), edges)
        binning["params"]["layer"] = layer or "X"
    request = Request(
        vocab=genes,
        binning=binning,
        cut=_counts if binning is None else partial(_binning.cut, record=binning),
        n_bins=n_bins if binning is None else binning["params"]["n_bins"],
        layer=layer,
        modality=modality,
        cells=cells,
        aliases=None if aliases is None else read_aliases(aliases),
        gene_key=gene_key,
        min_counts=min_counts,
        min_matched=min_matched,
        min_genes=min_genes,
        donor_key=donor_key,
        obs_columns=columns,
        val_fraction=val_fraction,
        val_donors=val_donors,
        on_error=on_error,
        memory=n_bytes,
        rng=rng,
    )
    _checks.files.new_folder(out)
    building = Building(out.with_name(f"{out.name}.building"), request, files)
    claim(building.folder, "the corpus")
    with only_writer(building.folder, "the corpus"):
        _checks.files.new_folder(out)
        table = _build(building, out)
    reasons = dict(zip(table["file"], table["reason"], strict=True))
    if skipped := [f"{file} ({reason})" for file, reason in reasons.items() if reason]:
        warnings.warn(
            f"{len(skipped)} of {len(table)} files are not in the corpus: "
            f"{'; '.join(skipped[:5])}{'; …' * (len(skipped) > 5)}",
            stacklevel=2,
        )
    return table


def _cuts(vocab: GeneVocab, scheme: Scheme, edges: Mapping[str, object] | None) -> Json:
    """Record of `bin_expression` for cells that are not here yet: nothing is learned from them."""
    scheme = scheme.agreed(edges)
    if edges is None and scheme.is_learned:
        raise ValueError(
            f"method={scheme.method!r} learns its edges from cells, and a corpus is read block by "
            f"block: bin a sample of training cells with pp.bin_expression(sample, "
            f"method={scheme.method!r}) and pass edges=sample.uns['binned']. log2 and quantile "
            f"need none."
        )
    no_cells = sparse.csr_matrix((0, len(vocab)))
    lower = scheme.lower_edges(edges, vocab.names, no_cells, np.zeros(0))
    totals = _checks.counts.totals_of(vocab.names)
    return {"edges": lower, "params": asdict(scheme) | totals}


def _build(building: Building, out: Path) -> pd.DataFrame:
    """Read everything, plan, write, and put the whole in its place."""
    request = building.request
    building.begin()
    scans, bad = building.scan()
    reasons = {building.labels[i]: bad[i] for i in sorted(bad)}
    _refuse_nothing_usable(scans, reasons, request)
    columns = write.merged_columns(list(scans.values()), request.obs_columns)
    donors = write.cells_of_donors(scans.values(), request.donor_key)
    val_donors = write.deal_donors(donors, request)
    parts = {i: write.parts_of(scan, val_donors) for i, scan in scans.items()}
    paths, stamps = building.paths, building.stamps
    job = write.Job(request, paths, scans, stamps, parts, list(donors), columns)
    runs = {part: write.deal_runs(scans, parts, part, request) for part in PARTS}
    datasets = building.write(runs, job)
    merged = ("asked", "columns", "order")  # of each scan
    record = {
        "n_genes": len(request.vocab),
        "binning": _listed_binning(request.binning),
        "parts": datasets,
        "donors": write.donors_per_part(donors, val_donors),
        "obs_columns": columns,
        "sources": [
            {name: value for name, value in scan.record.items() if name not in merged}
            for scan in scans.values()
        ],
        "skipped": [{"file": file, "reason": why} for file, why in reasons.items()],
        "params": request.record(),
    }
    building.finish(record, out)
    return building.report(scans, bad)


def _refuse_nothing_usable(
    scans: Mapping[int, Scan], reasons: Mapping[str, str], request: Request
) -> None:
    """Refuse files that cannot be used, unless they are to be skipped and a cell is left."""
    n_files = len(scans) + len(reasons)
    lines = "".join(f"\n  {name}: {reason}" for name, reason in reasons.items())
    if reasons and request.on_error == "raise":
        raise ValueError(
            f"{len(reasons)} of {n_files} files cannot be used, so nothing was written:{lines}\n"
            "Mend them or leave them out; on_error='skip' leaves such files out and reports them."
        )
    if not any(scan.record["n_kept"] for scan in scans.values()):
        raise ValueError(
            f"No cell is left: {len(reasons)} of {n_files} files cannot be used, and no cell of "
            f"the others has {request.min_genes} expressed genes of the vocabulary "
            f"(min_genes).{lines}"
        )


def _counts(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Raw counts as they are stored, in 32 bits."""
    if counts.data.max(initial=0) > np.iinfo(np.int32).max:
        raise ValueError(
            f"holds a count of {counts.data.max():g}, more than a corpus of raw counts can hold "
            f"(32 bits)."
        )
    return counts


def _listed_binning(binning: Json | None) -> Json | None:
    """What fits into the manifest: edges of every gene have a file of their own."""
    if binning is None:
        return None
    edges = binning["edges"]
    shown = {} if isinstance(edges, pd.DataFrame) else {"edges": list(edges)}
    return {"params": binning["params"], **shown}
