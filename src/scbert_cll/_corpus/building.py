"""The folder a corpus is built in, so that an interrupted build goes on, and its last rename."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from scbert_cll._checks.words import bytes_in_words, listed
from scbert_cll._corpus import format as on_disk
from scbert_cll._corpus.format import EDGES, FORMAT, MANIFEST, VOCAB
from scbert_cll._corpus.scan import Request, Scan, Scans, labels, scan
from scbert_cll._corpus.sources import UNREADABLE
from scbert_cll._corpus.write import Job, Run, Runs, write_dataset, write_part
from scbert_cll._disk import formats, left_overs
from scbert_cll._disk.formats import Json, digest, sha256, size_and_time
from scbert_cll._disk.in_place import put_in_place, remove, replace
from scbert_cll._process import Bar

_PLAN: Final = "plan.json"
_RULES: Final = 3  # of what is a gene, and which; what an older version read is read again
_BYTES_ON_DISK: Final = 2  # of a token with its gene, compressed


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
        # of each file when its checksum was made
        self.stamps = dict[int, tuple[int, int]]()
        self._scans, self._done = folder / "scans", folder / "done"
        self._plan: Json = {}  # what was asked, and checksums of the files that datasets are of
        self._is_begun = False  # a dataset is done, so that nothing may change any more

    def begin(self) -> None:
        """Start, or go on with what the same call started.

        Where no dataset is done yet, another call may as well start.
        """
        call = {"files": self.labels, **self.request.record(), "rules": _RULES}
        call = formats.plain(call)
        self._plan = {"asked": call, "sources": {}}
        plan = left_overs.read_note(self.folder / _PLAN, _PLAN)
        notes = self._done.glob("*.json")
        if plan and any(left_overs.read_note(note, _key(plan)) for note in notes):
            left_overs.refuse_another_call(call, plan["asked"], self.folder, "a build")
            self._plan["sources"], self._is_begun = plan["sources"], True
        else:
            for folder in (self.corpus, self._done):
                remove(folder)
            left_overs.write_note(self.folder / _PLAN, self._plan, _PLAN)
        for folder in (self.corpus, self._scans, self._done):
            folder.mkdir(exist_ok=True)

    def scan(self) -> tuple[dict[int, Scan], dict[int, str]]:
        """What every file holds, and why the others cannot be used, by number."""
        call = digest({**self.request.reading(), "rules": _RULES})
        scans, reasons = dict[int, Scan](), dict[int, str]()
        sources, changed, first = dict[str, str](), list[str](), dict[str, str]()
        bar = Bar(self.paths, desc="Reading", unit="file", disable=None)
        for i, path in enumerate(bar):
            label, self.stamps[i] = self.labels[i], size_and_time(path)
            try:
                checksum = sha256(path)
            except OSError:  # it cannot be read, which its scan says
                checksum = ""
            sources[label] = checksum
            head = {"file": label, "sha256": checksum, "asked": call}
            if self._is_begun and self._plan["sources"].get(label) != checksum:
                changed.append(label)
                continue
            scanned = self._scan(i, path, head)
            if scanned.reason is not None:
                reasons[i] = scanned.reason
            elif (original := first.setdefault(checksum, label)) != label:
                reasons[i] = f"is a copy of {original}"  # its cells would count twice
            else:
                scans[i] = scanned
        if changed:
            raise ValueError(
                f"{len(changed)} files are not what they were when {self.folder} was begun: "
                f"{listed(changed)}. Restore them, or delete {self.folder} to begin anew."
            )
        self._plan["sources"] = sources
        left_overs.write_note(self.folder / _PLAN, self._plan, _PLAN)
        return scans, reasons

    def write(self, runs: Mapping[str, Runs], job: Job) -> dict[str, list[Json]]:
        """Write the vocabulary, the edges of genes and every dataset; what each dataset holds."""
        replace(self.corpus / VOCAB, *formats.as_names(self.request.vocab))
        edges = (self.request.binning or {}).get("edges")
        if isinstance(edges, pd.DataFrame):
            replace(self.corpus / EDGES, *formats.as_numbers(edges, "gene"))
        todo = [(part, i, some) for part in runs for i, some in enumerate(runs[part])]
        # how well cells compress is not known
        needed = _BYTES_ON_DISK * sum(run.n_tokens for *_, some in todo for run in some)
        free = shutil.disk_usage(self.folder).free
        free += size_and_time(self.corpus)[0]
        if free < needed / 2:
            raise OSError(
                errno.ENOSPC,
                f"The corpus needs about {bytes_in_words(needed)}, and the disk of {self.folder} "
                f"has {bytes_in_words(free)} left. Free some space, or name another disk",
            )
        done: dict[str, list[Json]] = {part: [] for part in runs if runs[part]}
        for part in done:
            write_part(self.corpus / part)
        with Bar(total=len(todo), desc="Writing", unit="dataset", disable=None) as bar:
            for part, i, some in todo:
                with left_overs.goes_on(self.folder, "pp.build_corpus", needed):
                    done[part].append(self._dataset(part, i, some, job))
                needed -= _BYTES_ON_DISK * sum(run.n_tokens for run in some)
                bar.update()
        return done

    def finish(self, record: Json, out: Path) -> None:
        """Write the manifest, and put the whole in its place."""
        names = [VOCAB, EDGES, *(f"{part}/zarr.json" for part in record["parts"])]
        sums = on_disk.listing(self.corpus, [self.corpus / name for name in names])
        manifest = FORMAT.complete(record, sums)
        formats.write_json(self.corpus / MANIFEST, manifest)
        corpus = on_disk.Corpus(self.corpus, manifest)
        for name in list(on_disk.unlisted(corpus, hidden=True)):
            remove(self.corpus / name)  # of a process that was interrupted
        put_in_place(self.corpus, out)
        left_overs.discard(self.folder, "corpus", "scans", "done", _PLAN)

    def report(self, scans: Scans, reasons: Mapping[int, str]) -> pd.DataFrame:
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

    def _scan(self, i: int, path: Path, head: Json) -> Scan:
        """What was noted of a file, or a scan of it.

        Where it could not be used, and no dataset is done, it is read again: it may be mended.
        """
        note, call = self._scans / f"{i}.npz", digest(head)
        noted = self._noted(note, call)
        if noted is not None and (noted.reason is None or self._is_begun):
            return noted
        try:
            scanned = scan(path, head, self.request)
        except UNREADABLE as error:
            is_key = isinstance(error, KeyError) and error.args
            reason = " ".join(str(error.args[0] if is_key else error).split())
            nothing = np.zeros(0, np.int32)
            scanned = Scan({**head, "reason": reason}, nothing, nothing, nothing)
        left_overs.write_kept(note, scanned.arrays, scanned.record, call)
        return self._noted(note, call) or scanned

    @staticmethod
    def _noted(note: Path, call: str) -> Scan | None:
        parts = left_overs.read_kept(note, call)
        return Scan(parts[0], **parts[1]) if parts else None

    def _dataset(self, part: str, number: int, runs: list[Run], job: Job) -> Json:
        """Write a dataset, or keep it if it is on the disk as it was written."""
        folder = self.corpus / part / f"dataset_{number}"
        note, key = self._done / f"{part}_{number}.json", _key(self._plan)
        if (noted := left_overs.read_note(note, key)) is not None:
            dataset: Json = noted["dataset"]
            sums = {name: checksum for name, (_, checksum) in dataset["files"].items()}
            if formats.are_whole(folder, sums):
                return dataset
        dataset = write_dataset(folder, part, number, runs, job)
        left_overs.write_note(note, {"dataset": dataset}, key)
        return dataset


def _key(plan: Json) -> str:
    """What datasets of a build carry: all that was asked, of which files."""
    return digest({name: plan[name] for name in ("asked", "sources")})
