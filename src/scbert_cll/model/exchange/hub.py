"""Models that are shared: published on Hugging Face, and read from there."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Final

import numpy as np

from scbert_cll._checks.files import FilePath
from scbert_cll._checks.words import listed
from scbert_cll._disk.formats import Json, read_json, write_json, write_text
from scbert_cll._disk.in_place import replace, settle, whole
from scbert_cll._optional import optional
from scbert_cll.model import _scvi
from scbert_cll.model._protocols import Network
from scbert_cll.model.exchange import folder as exchange_folder
from scbert_cll.model.exchange import saving
from scbert_cll.model.exchange.model_card import model_card

# the latter is what scvi-tools' HubModel looks for
CARD, SCVI_METADATA = "README.md", "_scvi_required_metadata.json"
# nothing else is ever uploaded or downloaded: text and safetensors, no pickle
FILES: Final = exchange_folder.FILES
_EVALUATED: Final = ("summary", "params", "classes", "unit", "n_units")
_NAMED: Final = ("models", "baselines", "scheme")  # in an evaluation, by who made it
_REPOSITORY: Final = re.compile(r"[\w.-]+/[\w.-]+")
_WHAT: Final = "Sharing models"
_PATH: Final = re.compile(  # within a text, too
    r"""(?:^|[\s'"(\[<=,;|])"""
    r"(?:~[\w.-]*[\\/]|[a-zA-Z]:[\\/](?!/)|\\\\[\w.-]+\\|\$\{?\w+\}?[\\/]|%\w+%[\\/]|"
    r"/(?:home|Users|root|mnt|media|srv|scratch|tmp|var|opt|data)/)|\bfile:/",
    re.IGNORECASE,
)
_MAIL: Final = re.compile(r"[\w.+-]+@[\w-]+\.\w[\w.-]*")


def save_for_hub(
    model: Network,
    dir_path: FilePath,
    *,
    repo_id: str | None = None,
    evaluation: Mapping[str, Any] | None = None,
    license: str | None = None,  # noqa: A002
) -> None:
    """Save the model as :meth:`save` does, with a model card, and as scvi-tools' ``HubModel``.

    What :meth:`push_to_hub` uploads, to be read first.
    ``scvi.hub.HubModel(folder).load_model(adata)`` reads it, too.

    Parameters
    ----------
    dir_path
        The folder. One that exists is never replaced: its card may have been edited.
    repo_id
        Name that the card's code loads the model by, ``"org/name"``.
    evaluation
        What :func:`~scbert_cll.tl.cross_validate` wrote, ``adata.uns["cv"]``; the card then has
        its scores and their intervals.
    license
        Licence of the model, as Hugging Face abbreviates it (``"bsd-3-clause"``,
        ``"cc-by-4.0"``). None: the card says that none was said.

    Raises
    ------
    FileExistsError
        The folder exists.
    ImportError
        huggingface_hub is not installed.
    TypeError, ValueError
        `evaluation` is something else or of other classes, `repo_id` is none, or a file would
        hold paths of this machine or e-mail addresses. No folder is then left.
    """
    optional("huggingface_hub", _WHAT)
    folder = Path(dir_path)
    if folder.exists():
        raise FileExistsError(
            f"{folder} exists, and a card in it may have been edited; name another folder."
        )
    named: Json = {"genes": list(model.genes), "licence": license}
    if evaluation is not None:
        _refuse_other_evaluation(evaluation, (model.labels or {}).get("classes"))
        params = evaluation["params"]
        names = {key: [str(one) for one in np.ravel(params.get(key, ()))] for key in _NAMED}
        named["evaluation"] = {**names, "unit": str(evaluation["unit"])}
    if repo_id is not None and not _REPOSITORY.fullmatch(repo_id):
        raise ValueError(
            f'repo_id must be "org/name", in letters, digits and . _ -; found {repo_id!r}.'
        )
    card = model_card(model, repo_id=repo_id, evaluation=evaluation, licence=license)
    _nothing_private(named, f"The model card of {folder}")

    def write(aside: Path) -> None:
        saving.save(model, aside)
        for name in (exchange_folder.CONFIG, exchange_folder.LABELS):
            if (aside / name).exists():
                _nothing_private(read_json(aside / name), str(folder / name))
        write_text(aside / CARD, card)
        write_json(aside / SCVI_METADATA, _scvi.hub_metadata(type(model).__name__))

    replace(folder, write, lambda aside: class_of(aside) == type(model).__name__)


def push_to_hub(
    model: Network,
    repo_id: str,
    *,
    evaluation: Mapping[str, Any] | None = None,
    license: str | None = None,  # noqa: A002
    private: bool = True,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = "Upload model",
) -> str:
    """Publish the model on Hugging Face: the files of :meth:`save_for_hub`, and no others.

    Cells, labels of cells and donors are not among them; see the page on sharing for what a
    model may tell nevertheless.

    Parameters
    ----------
    repo_id
        ``"org/name"``; made where it does not exist. What an earlier model left there is
        replaced.
    evaluation, license
        As in :meth:`save_for_hub`.
    private
        Only for whom you let in. A repository that is public is refused unless this is False.
    token
        Token with the right to write; None: the one of ``hf auth login``.
    revision
        Branch; made where it does not exist. None: the main one.
    commit_message
        Of the commit.

    Returns
    -------
    Address of the commit.

    Raises
    ------
    ImportError
        huggingface_hub is not installed.
    PermissionError
        The token is missing, or not good for this repository.
    TypeError, ValueError
        As in :meth:`save_for_hub`; the repository is public and `private` is True.

    Examples
    --------
    >>> model.push_to_hub("our-lab/cll-cd49d", evaluation=adata.uns["cv"], license="cc-by-4.0")
    """
    api = optional("huggingface_hub", _WHAT).HfApi(token=token)
    with tempfile.TemporaryDirectory() as place, _answers(repo_id, revision):
        folder = Path(place) / "model"
        save_for_hub(model, folder, repo_id=repo_id, evaluation=evaluation, license=license)
        api.create_repo(repo_id, private=private, exist_ok=True)
        if private and not api.model_info(repo_id).private:
            raise ValueError(
                f"{repo_id} is public. To publish the model there for everybody, pass "
                f"private=False."
            )
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            revision=revision,
            commit_message=commit_message,
            allow_patterns=[*FILES, CARD, SCVI_METADATA],
            # those of an earlier model that this one does not have
            delete_patterns=list(FILES),
        )
    return str(commit.commit_url)


def model_folder(source: FilePath, *, revision: str | None, token: str | None) -> Path:
    """Return a folder as it is; of a repository, the folder its model was downloaded to.

    Raises
    ------
    FileNotFoundError
        There is no such repository or revision, or it is private.
    ValueError
        The repository holds something else.
    """
    settle(Path(source))
    is_name = isinstance(source, str) and _REPOSITORY.fullmatch(source)
    if not isinstance(source, str) or not is_name or Path(source).exists():
        return Path(source)
    hub = optional("huggingface_hub", _WHAT)
    with _answers(source, revision):
        chosen = {"revision": revision, "token": token}
        place = hub.snapshot_download(source, allow_patterns=list(FILES), **chosen)
        folder = Path(place)
        if class_of(folder) is not None:
            return folder
        files = hub.HfApi().list_repo_files(source, **chosen)
    raise ValueError(
        f"{source} holds no model of scbert_cll: expected a {exchange_folder.CONFIG} that says "
        f"format = {exchange_folder.FORMAT!r}; the repository holds {listed(files, 8)}."
    )


def class_of(folder: Path) -> str | None:
    """Class of the model in a folder; None where it holds something else, or nothing."""
    try:
        config = whole(folder, lambda place: read_json(place / exchange_folder.CONFIG))
    except OSError:
        return None
    is_model = config.get("format") == exchange_folder.FORMAT
    return str(config.get("class")) if is_model else None


def _refuse_other_evaluation(evaluation: Any, classes: Sequence[str] | None) -> None:
    """What is published was written by `tl.cross_validate`, about the classes of the model."""
    expected = "evaluation must be what tl.cross_validate wrote, adata.uns['cv']"
    if not isinstance(evaluation, Mapping):
        raise TypeError(f"{expected}; found {type(evaluation).__name__}.")
    if absent := [key for key in _EVALUATED if key not in evaluation]:
        holds = listed(evaluation)
        raise ValueError(f"{expected}; it lacks {listed(absent)}, and holds {holds}.")
    if classes is None:
        raise ValueError(
            "A ScBERT names no classes, so evaluation= says nothing about it. Publish it with the "
            "classifier made from it."
        )
    evaluated = [str(name) for name in evaluation["classes"]]
    if set(evaluated) != set(classes):
        raise ValueError(
            f"evaluation is of the classes {listed(evaluated)}, and the model names "
            f"{listed(classes)}. Give the evaluation of the same labels, or leave it out."
        )


def _nothing_private(content: Mapping[str, Any], file: str) -> None:
    """Refuse to publish paths of this machine and e-mail addresses; name where they stand."""
    texts = list(_texts(content))
    kinds = ("paths of this machine", _is_path), ("e-mail addresses", _MAIL.search)
    for what, is_private in kinds:
        if places := dict.fromkeys(name for name, text in texts if is_private(text)):
            raise ValueError(
                f"{file} would publish {what}: {listed(places)}. Name layers, columns, classes and "
                f"genes without them, and save again."
            )


def _texts(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every text with the keys that lead to it."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield f"{name}.{key}".lstrip("."), str(key)
            yield from _texts(part, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part, name)


def _is_path(text: str) -> bool:
    whole = PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute()
    return whole or _PATH.search(text) is not None


@contextmanager
def _answers(repo_id: str, revision: str | None) -> Iterator[None]:
    """Say what Hugging Face's answers mean here, and what to do."""
    errors = optional("huggingface_hub.errors", _WHAT)
    remedy = (
        "Remedy: check the name; for a private repository pass token=, or log in with `hf auth "
        "login`."
    )
    try:
        yield
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"{repo_id} has no revision {revision!r}: expected a branch, tag or commit."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"There is no folder {repo_id}, and no repository of that name that may be read: it "
            f"does not exist, or is private. {remedy}"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise ConnectionError(
            f"{repo_id} was not downloaded before, and Hugging Face cannot be reached: {error}"
        ) from error
    except errors.HfHubHTTPError as error:
        if error.response.status_code not in (401, 403):
            raise
        raise PermissionError(
            f"Hugging Face refused access to {repo_id} ({error.response.status_code}). {remedy} To "
            f"publish, it must have the right to write."
        ) from error
