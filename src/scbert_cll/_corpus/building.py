"""The folder a corpus is built in, so that an interrupted build goes on, and its last rename."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

from scbert_cll._checks.words import bytes_in_words, listed
from scbert_cll._corpus.format import (
    EDGES,
    FORMAT,
    FORMAT_VERSION,
    MANIFEST,
    VOCAB,
    Corpus,
    unlisted,
)
from scbert_cll._corpus.plan import Run
from scbert_cll._corpus.request import Request, labels
from scbert_cll._corpus.scan import Scan, scan
from scbert_cll._corpus.sources import UNREADABLE
from scbert_cll._corpus.write import Job, write_dataset, write_part
from scbert_cll._disk import formats
from scbert_cll._disk.formats import digest, sha256, size_and_time
from scbert_cll._disk.in_place import put_in_place, remove, replace
from scbert_cll._disk.left_overs import (
    discard,
    goes_on,
    read_note,
    refuse_another_call,
    write_note,
)
from scbert_cll._process import Bar

_PLAN: Final = "plan.json"
_RULES: Final = 2  # of what is a gene; what an older version read is read again
_BYTES_ON_DISK: Final = 2  # of a token with its gene, compressed
_WRITERS: Final = ("anndata", "annbatch", "zarr", "numpy", "scipy", "pandas")


class Building:
    """The folder beside the corpus.

    Every left-over says which call made it, with a checksum of itself; what does not fit is made
    again.

    Parameters
    ----------
    folder
        Where it is.
    request
        What is built.
    paths
        The files it is built of.
    """

    def __init__(self, folder: Path, request: Request, paths: Sequence[Path]) -> None:
        self.folder, self.request, self.paths = folder, request, paths
        self.labels = labels(paths)
        self.corpus = folder / "corpus"
        self.stamps = dict[int, tuple[int, int]]()  # of each file when its checksum was made
        self._scans, self._done = folder / "scans", folder / "done"
        self._call: dict[str, Any] = {}
        self._sources: dict[str, str] = {}  # checksums of the files that datasets are made of
        self._is_begun = False  # a dataset is done, so that nothing may change any more

    def begin(self) -> None:
        """Start, or go on with what the same call started.

        Where no dataset is done yet, another call may as well start.
        """
        self._call = formats.plain({"files": self.labels, **self.request.record(), "rules": _RULES})
        plan = read_note(self.folder / _PLAN, _PLAN)
        notes = list(self._done.glob("*.json"))
        if plan is not None and any(read_note(note, _key(plan)) for note in notes):
            refuse_another_call(self._call, plan["asked"], self.folder, "a build")
            self._sources, self._is_begun = plan["sources"], True
        else:
            for folder in (self.corpus, self._done):
                remove(folder)
            self._note_plan()
        for folder in (self.corpus, self._scans, self._done):
            folder.mkdir(exist_ok=True)

    def scan(self) -> tuple[dict[int, Scan], dict[int, str]]:
        """What every file holds, and why the others cannot be used, by number."""
        call = digest({**self.request.reading(), "rules": _RULES})
        scans, reasons = dict[int, Scan](), dict[int, str]()
        sources, changed, first = dict[str, str](), list[str](), dict[str, str]()
        for i, path in enumerate(Bar(self.paths, desc="Reading", unit="file", disable=None)):
            label, self.stamps[i] = self.labels[i], size_and_time(path)
            head = {"file": label, "sha256": _checksum(path), "asked": call}
            sources[label] = head["sha256"]
            if self._is_begun and self._sources.get(label) != head["sha256"]:
                changed.append(label)
                continue
            scanned = self._scan(i, path, head)
            if scanned.reason is not None:
                reasons[i] = scanned.reason
            elif (original := first.setdefault(head["sha256"], label)) != label:
                reasons[i] = f"is a copy of {original}"  # its cells would count twice
            else:
                scans[i] = scanned
        if changed:
            raise ValueError(
                f"{len(changed)} files are not what they were when {self.folder} was begun: "
                f"{listed(changed)}. Restore them, or delete {self.folder} to begin anew."
            )
        self._sources = sources
        self._note_plan()
        return scans, reasons

    def write(self, runs: Mapping[str, list[list[Run]]], job: Job) -> dict[str, list[Any]]:
        """Write the vocabulary, the edges of genes and every dataset; what each dataset holds."""
        replace(self.corpus / VOCAB, *formats.as_names(self.request.vocab))
        edges = (self.request.binning or {}).get("edges")
        if isinstance(edges, pd.DataFrame):
            replace(self.corpus / EDGES, *formats.as_numbers(edges, "gene"))
        todo = [(part, i, some) for part in runs for i, some in enumerate(runs[part])]
        n_tokens = sum(run.n_tokens for *_, some in todo for run in some)
        self._refuse_small_disk(n_tokens)
        done: dict[str, list[Any]] = {part: [] for part in runs if runs[part]}
        for part in done:
            write_part(self.corpus / part)
        with Bar(total=len(todo), desc="Writing", unit="dataset", disable=None) as bar:
            for part, i, some in todo:
                with goes_on(self.folder, "pp.build_corpus", n_tokens * _BYTES_ON_DISK):
                    done[part].append(self._dataset(part, i, some, job))
                n_tokens -= sum(run.n_tokens for run in some)
                bar.update()
        return done

    def finish(self, record: Mapping[str, Any], out: Path) -> None:
        """Write the manifest, and put the whole in its place."""
        names = [VOCAB, EDGES, *(f"{part}/zarr.json" for part in record["parts"])]
        files = [self.corpus / name for name in names if (self.corpus / name).exists()]
        sums = {
            file.relative_to(self.corpus).as_posix(): [file.stat().st_size, sha256(file)]
            for file in files
        }
        head = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "versions": formats.versions(*_WRITERS),
            "sha256": sums,
        }
        manifest = formats.sealed({**head, **record})
        formats.write_json(self.corpus / MANIFEST, manifest)
        for name in list(unlisted(Corpus(self.corpus, manifest), hidden=True)):
            remove(self.corpus / name)  # of a process that was interrupted
        put_in_place(self.corpus, out)
        discard(self.folder, "corpus", "scans", "done", _PLAN)

    def report(self, scans: Mapping[int, Scan], reasons: Mapping[int, str]) -> pd.DataFrame:
        """What became of every file."""
        table = pd.DataFrame({"file": self.labels})
        table["status"] = ["used" if i in scans else "skipped" for i in table.index]
        records = [scans[i].record if i in scans else {} for i in table.index]
        for name in ("n_cells", "n_kept", "n_genes", "n_matched"):
            table[name] = [record.get(name, 0) for record in records]
        donors = [record.get("donors", {}).values() for record in records]
        table["n_donors"] = [sum(n > 0 for n in numbers) for numbers in donors]
        table["reason"] = [reasons.get(i, "") for i in table.index]
        return table

    def _note_plan(self) -> None:
        """Write down what was asked, of which files."""
        write_note(self.folder / _PLAN, {"asked": self._call, "sources": self._sources}, _PLAN)

    def _scan(self, i: int, path: Path, head: dict[str, Any]) -> Scan:
        """What was noted of a file, or a scan of it.

        Where it could not be used, and no dataset is done, it is read again: it may be mended.
        """
        note, call = self._scans / f"{i}.npz", digest(head)
        noted = Scan.load(note, call)
        if noted is not None and (noted.reason is None or self._is_begun):
            return noted
        try:
            scanned = scan(path, head, self.request)
        except UNREADABLE as error:
            text = error.args[0] if isinstance(error, KeyError) and error.args else error
            scanned = Scan.refused(head, " ".join(str(text).split()))
        scanned.save(note, call)
        return Scan.load(note, call) or scanned

    def _refuse_small_disk(self, n_tokens: int) -> None:
        """Refuse a disk that is clearly too small; how well cells compress is not known."""
        needed = n_tokens * _BYTES_ON_DISK
        free = shutil.disk_usage(self.folder).free
        free += sum(path.stat().st_size for path in self.corpus.rglob("*") if path.is_file())
        if free < needed / 2:
            raise OSError(
                errno.ENOSPC,
                f"The corpus needs about {bytes_in_words(needed)}, and the disk of {self.folder} "
                f"has {bytes_in_words(free)} left. Free some space, or name another disk",
            )

    def _dataset(self, part: str, number: int, runs: list[Run], job: Job) -> dict[str, Any]:
        """Write a dataset, or keep it if it is on the disk as it was written."""
        folder = self.corpus / part / f"dataset_{number}"
        note = self._done / f"{part}_{number}.json"
        key = _key({"asked": self._call, "sources": self._sources})
        noted = read_note(note, key)
        if noted is not None:
            dataset: dict[str, Any] = noted["dataset"]
            files = dataset["files"].items()
            if formats.are_whole(folder, {name: one for name, (_, one) in files}):
                return dataset
        dataset = write_dataset(folder, part, number, runs, job)
        write_note(note, {"dataset": dataset}, key)
        return dataset


def _key(plan: Mapping[str, Any]) -> str:
    """What datasets of a build carry: all that was asked, of which files."""
    return digest({name: plan[name] for name in ("asked", "sources")})


def _checksum(path: Path) -> str:
    """Checksum of a file; empty where it cannot be read."""
    try:
        return sha256(path)
    except OSError:
        return ""
