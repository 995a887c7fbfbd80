"""The folder a corpus is built in: what is done, so that an interrupted build goes on, and moving the whole into place."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

from scbert_cll import _checks
from scbert_cll._bar import Bar
from scbert_cll._corpus import checks as corpus_checks
from scbert_cll._corpus.format import (
    EDGES,
    FORMAT,
    FORMAT_VERSION,
    MANIFEST,
    PARTS,
    VOCAB,
    Corpus,
    unlisted,
)
from scbert_cll._corpus.plan import Run
from scbert_cll._corpus.scan import Request, Scan, scan
from scbert_cll._corpus.sources import UNREADABLE
from scbert_cll._corpus.write import Job, stamp, write_dataset, write_part
from scbert_cll._disk.formats import (
    as_names,
    as_numbers,
    digest,
    plain,
    sealed,
    sha256,
    versions,
    write_json,
)
from scbert_cll._disk.in_place import put_in_place, remove, replace
from scbert_cll._disk.left_overs import claim, discard, read_note, write_note
from scbert_cll.vocab import GeneVocab

_PLAN: Final = "plan.json"
_SCANNED: Final = (
    "layer",
    "modality",
    "cells",
    "binned",
    "min_matched",
    "min_genes",
    "donor_key",
    "not_donors",
    "obs_columns",
    "vocab",
    "binning",
    "aliases",
)
_RULES: Final = 2  # of what is a gene; what an older version read is read again
_BYTES_ON_DISK: Final = 2  # of a token with its gene, compressed
_WRITERS: Final = ("anndata", "annbatch", "zarr", "numpy", "scipy", "pandas")


class Building:
    """The folder beside the corpus.

    Every left-over says which call made it, with a checksum of itself; what does not fit is made
    again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.corpus = folder / "corpus"
        self.stamps: dict[
            int, tuple[int, int]
        ] = {}  # size and time of each file when its checksum was made
        self._scans, self._done = folder / "scans", folder / "done"
        self._call: dict[str, Any] = {}
        self._sources: dict[str, str] = {}  # checksums of the files that datasets are made of
        self._is_begun = False  # a dataset is done, so that nothing may change any more

    def claim(self) -> None:
        """Take the folder, unless it is somebody else's."""
        claim(self.folder, "the corpus")

    def begin(self, call: dict[str, Any]) -> None:
        """Start, or go on with what the same call started.

        Where no dataset is done yet, another call may as well start.
        """
        self._call = plain({**call, "rules": _RULES})
        plan = read_note(self.folder / _PLAN, _PLAN)
        if plan is not None and any(
            read_note(note, _key(plan)) for note in self._done.glob("*.json")
        ):
            corpus_checks.same_call(self._call, plan["asked"], self.folder)
            self._sources, self._is_begun = plan["sources"], True
        else:
            for folder in (self.corpus, self._done):
                remove(folder)
            self._note_plan()
        for folder in (self.corpus, self._scans, self._done):
            folder.mkdir(exist_ok=True)

    def scan(
        self,
        paths: Sequence[Path],
        labels: Sequence[str],
        request: Request,
        call: Mapping[str, Any],
    ) -> tuple[dict[int, Scan], dict[int, str]]:
        """What every file holds, and why the others cannot be used, by number."""
        asked = digest({name: call[name] for name in _SCANNED} | {"rules": _RULES})
        good, bad, changed = dict[int, Scan](), dict[int, str](), []
        sources: dict[str, str] = {}
        for i, path in enumerate(Bar(paths, desc="Reading", unit="file", disable=None)):
            self.stamps[i] = stamp(path)
            head = {"file": labels[i], "sha256": _checksum(path), "asked": asked}
            sources[labels[i]] = head["sha256"]
            if self._is_begun and self._sources.get(labels[i]) != head["sha256"]:
                changed.append(labels[i])
                continue
            found = self._scan(i, path, head, request)
            if found.reason is None:
                good[i] = found
            else:
                bad[i] = found.reason
        corpus_checks.unchanged(changed, self.folder)
        self._sources = sources
        self._note_plan()
        return _without_copies(good, bad)

    def put_small(self, vocab: GeneVocab, binning: Mapping[str, Any] | None) -> None:
        """Write the vocabulary, and the edges where every gene has its own."""
        replace(self.corpus / VOCAB, *as_names(vocab))
        if binning is not None and isinstance(binning["edges"], pd.DataFrame):
            replace(self.corpus / EDGES, *as_numbers(binning["edges"], "gene"))

    def write(self, runs: dict[str, list[list[Run]]], job: Job) -> dict[str, list[dict[str, Any]]]:
        """Every dataset that is not done, and what was written of all."""
        todo = [(part, i, own) for part in runs for i, own in enumerate(runs[part])]
        done: dict[str, list[dict[str, Any]]] = {part: [] for part, own in runs.items() if own}
        left = sum(run.n_tokens for *_, own in todo for run in own)
        there = sum(path.stat().st_size for path in self.corpus.rglob("*") if path.is_file())
        corpus_checks.enough_space(
            shutil.disk_usage(self.folder).free + there, left * _BYTES_ON_DISK, self.folder
        )
        for part in done:
            write_part(self.corpus / part)
        with Bar(total=len(todo), desc="Writing", unit="dataset", disable=None) as bar:
            for part, i, own in todo:
                done[part].append(self._dataset(part, i, own, job, left))
                left -= sum(run.n_tokens for run in own)
                bar.update()
        return done

    def finish(self, record: dict[str, Any], out: Path) -> None:
        """Write the manifest, and put the whole in its place."""
        names = [
            VOCAB,
            *([EDGES] if (self.corpus / EDGES).exists() else []),
            *(f"{p}/zarr.json" for p in record["parts"]),
        ]
        files = {
            name: [(self.corpus / name).stat().st_size, sha256(self.corpus / name)]
            for name in names
        }
        head = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "versions": versions(*_WRITERS),
            "sha256": files,
        }
        record = sealed(head | record)
        write_json(self.corpus / MANIFEST, record)
        for name in list(unlisted(Corpus(self.corpus, record), hidden=True)):
            remove(self.corpus / name)  # of a process that was interrupted
        put_in_place(self.corpus, out)
        discard(self.folder, *(path.name for path in (self.corpus, self._scans, self._done)), _PLAN)

    def _note_plan(self) -> None:
        """Write down what was asked, of which files."""
        write_note(self.folder / _PLAN, {"asked": self._call, "sources": self._sources}, _PLAN)

    def _scan(self, i: int, path: Path, head: dict[str, Any], request: Request) -> Scan:
        """What was noted of a file, or, where nothing was, or what was wrong may be mended, what a scan of it finds."""
        note, asked = self._scans / f"{i}.npz", digest(head)
        known = Scan.load(note, asked)
        if known is not None and (known.reason is None or self._is_begun):
            return known
        try:
            found = scan(path, head, request)
        except UNREADABLE as error:
            text = error.args[0] if isinstance(error, KeyError) and error.args else error
            found = Scan.refused(head, " ".join(str(text).split()))
        found.save(note, asked)
        return Scan.load(note, asked) or found

    def _dataset(
        self, part: str, number: int, runs: list[Run], job: Job, left: int
    ) -> dict[str, Any]:
        folder, note = (
            self.corpus / part / f"dataset_{number}",
            self._done / f"{part}_{number}.json",
        )
        key = _key({"asked": self._call, "sources": self._sources})
        if (known := read_note(note, key)) is not None and _is_whole(folder, known["dataset"]):
            return dict(known["dataset"])
        try:
            done = write_dataset(folder, part, number, runs, job)
            write_note(note, {"dataset": done}, key)
        except OSError as error:
            raise corpus_checks.disk_full(error, left * _BYTES_ON_DISK, self.folder) from error
        return done


def _key(plan: Mapping[str, Any]) -> str:
    """What datasets of a build carry: all that was asked, of which files."""
    return digest({name: plan[name] for name in ("asked", "sources")})


def _checksum(path: Path) -> str:
    """Checksum of a file; empty where it cannot be read."""
    try:
        return sha256(path)
    except OSError:
        return ""


def _is_whole(folder: Path, done: dict[str, Any]) -> bool:
    """Whether a finished dataset is on the disk as it was written.

    After a power failure it may not be.
    """
    files = {folder / name: checksum for name, (_, checksum) in done["files"].items()}
    return all(file.is_file() and sha256(file) == checksum for file, checksum in files.items())


def _without_copies(
    good: dict[int, Scan], bad: dict[int, str]
) -> tuple[dict[int, Scan], dict[int, str]]:
    """A file that is another one's copy would count its cells twice."""
    first: dict[str, str] = {}
    for i, scanned in good.items():
        original = first.setdefault(scanned.record["sha256"], scanned.record["file"])
        if original != scanned.record["file"]:
            bad[i] = f"is a copy of {original}"
    return {i: scanned for i, scanned in good.items() if i not in bad}, bad


def merged_columns(scans: dict[int, Scan], keys: Sequence[str]) -> dict[str, list[str] | None]:
    """Categories of each obs column over all files, None where it holds numbers."""
    merged: dict[str, list[str] | None] = {}
    there = {key for scanned in scans.values() for key in scanned.record["columns"]}
    corpus_checks.columns_somewhere([key for key in keys if key not in there], len(scans))
    for key in keys:
        found = {
            scanned.record["file"]: scanned.record["columns"][key]
            for scanned in scans.values()
            if key in scanned.record["columns"]
        }
        numbers = [name for name, categories in found.items() if categories is None]
        corpus_checks.one_kind(
            key, numbers, [name for name, categories in found.items() if categories]
        )
        there_is = {c for categories in found.values() for c in categories or ()}
        orders = [
            scanned.record["order"][key]
            for scanned in scans.values()
            if key in scanned.record["order"]
        ]
        merged[key] = None if numbers else [c for c in _one_order(orders) if c in there_is]
    return merged


def _one_order(orders: Sequence[Sequence[str]]) -> list[str]:
    """Categories in the order of the files, where these agree on one; else sorted."""
    longest = max(orders, key=len)
    places = [[longest.index(c) if c in longest else -1 for c in order] for order in orders]
    if all(-1 not in own and own == sorted(own) for own in places):
        return list(longest)
    return _checks.people.sorted_names({c for order in orders for c in order})


def report(labels: Sequence[str], scans: dict[int, Scan], bad: dict[int, str]) -> pd.DataFrame:
    """What became of every file."""
    rows = []
    for i, label in enumerate(labels):
        record = scans[i].record if i in scans else {}
        numbers = {
            name: record.get(name, 0) for name in ("n_cells", "n_kept", "n_genes", "n_matched")
        }
        n_donors = sum(n > 0 for n in record.get("donors", {}).values())
        used = "used" if i in scans else "skipped"
        rows.append(
            {
                "file": label,
                "status": used,
                **numbers,
                "n_donors": n_donors,
                "reason": bad.get(i, ""),
            }
        )
    return pd.DataFrame(rows)


def donors_per_part(scans: dict[int, Scan], val_donors: Sequence[str]) -> dict[str, list[str]]:
    """Donors with a cell, by part."""
    names = {
        name for scanned in scans.values() for name, n in scanned.record["donors"].items() if n
    }
    train, val = PARTS
    return {train: sorted(names.difference(val_donors)), val: sorted(val_donors)}
