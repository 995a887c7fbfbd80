"""The commands by name: a function each, whose parameters are its options.

Its docstring is its help. Everything heavy is imported inside, so that asking for help is quick.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from scbert_cll._cli.corpus import check, corpus
from scbert_cll._cli.demo.job import OUTPUTS, Options
from scbert_cll._cli.predict import predict
from scbert_cll._cli.reading import ReadingDonors
from scbert_cll._cli.shared import free_folder, free_model_folder
from scbert_cll._cli.signature import signature
from scbert_cll._cli.train import finetune, pretrain


def demo(*, options: Options, reading: ReadingDonors, overwrite: bool = False) -> None:
    """Run the whole workflow: label by protein, hold donors out, train, predict, draw, report.

    Labels cells by a protein, holds donors out, trains scBERT on RNA, predicts, finds the
    signature, draws and reports. Without --input it runs on simulated CLL data whose truth is
    known, of which it uses the CLL cells.

    Parameters
    ----------
    overwrite
        Replace the files of a run that are in --out.
    """
    from scbert_cll.model.training.devices import device_of

    device_of(options.accelerator)
    free_folder(options.out, "the run", names=OUTPUTS, overwrite=overwrite)
    if (options.out / "model").exists():
        free_model_folder(options.out / "model", overwrite=True)
    from scbert_cll._cli.demo import run

    run.run(options, reading)


COMMANDS: Final[Mapping[str, Callable[..., None]]] = {
    f.__name__: f for f in (demo, corpus, check, pretrain, finetune, predict, signature)
}


def after_interruption(command: str, options: Mapping[str, object]) -> str:
    """How to go on after Ctrl-C."""
    if command == "corpus":
        return "The same command goes on after the last finished part."
    if command in ("pretrain", "finetune"):
        folder = options["checkpoint_dir"]
        how = f"the same command goes on from the last checkpoint in {folder}, if there is one yet"
        if folder is None:
            how = "with --checkpoint-dir the same command goes on where it was"
        return f"No model was written; {how}."
    if command == "predict" and Path(str(options["data"])).is_dir():
        return "The same command goes on where it was."
    return "Start the same command again."
