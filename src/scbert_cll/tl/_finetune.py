"""tl.finetune: learn labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from anndata import AnnData

from scbert_cll import _checks, _docs, _keys, _record
from scbert_cll._checks.words import refuse_given
from scbert_cll.model import ScBERT, ScBERTClassifier
from scbert_cll.model.corpus.data import ON_DISK, ONLY_OF_A_CORPUS, OnDisk, opened
from scbert_cll.model.linear.regression import Combine
from scbert_cll.model.training import fit as training
from scbert_cll.model.training.options import Finetuning, Freeze, check_network
from scbert_cll.tl import _write


@_docs.shared
def finetune(
    adata: AnnData | OnDisk,
    model: ScBERT | None = None,
    *,
    labels_key: str = _keys.CD49D,
    split_key: str = _keys.SPLIT,
    weight_key: str | None = _keys.BALANCE_WEIGHT,
    donor_key: str | None = _keys.DONOR,
    protein_key: str | None = None,
    layer: str = _keys.BINNED,
    exclude_genes: Sequence[str] = (),
    combine: Combine = "average",
    freeze: Freeze = Finetuning.freeze,
    max_epochs: int | None = None,
    batch_size: int | Literal["auto"] = Finetuning.batch_size,
    early_stopping: bool = Finetuning.early_stopping,
    accelerator: str = "auto",
    rng: int | np.random.Generator | None = 0,
    balance: Sequence[str] = (),
    num_workers: int = 0,
    network: dict[str, Any] | None = None,
    key_added: str = _keys.SCBERT,
    **train: Any,
) -> ScBERTClassifier:
    """Train a classifier of cells on the labelled training cells, and predict all cells.

    Only cells in ``"train"`` are learned from and only cells in ``"val"`` are used to choose (a
    penalty, with `early_stopping` the epoch), so what is predicted for ``"test"`` cells is honest.
    Cells without a label are predicted, not trained on.

    A logistic regression on the same tokens of the same cells is always fitted, too, and shown
    beside the network in ``adata.uns['scbert']['comparison']``: without it nobody knows what the
    network is worth. By default the two are joined.

    Cells that do not fit into memory are read from a corpus on disk, which has its donors split;
    the logistic regression is then fitted to a sample of them. Nothing but the model comes out;
    :func:`~scbert_cll.tl.predict_corpus` predicts all of its cells.

    Parameters
    ----------
    adata
        Cells × genes with the binned layer, labels and split; changed in place. Or a corpus: its
        path, or a :class:`~scbert_cll.model.CorpusData`; it is only read.
    model
        A pretrained model (:func:`~scbert_cll.tl.pretrain`), whose layer and genes are then used;
        None trains from scratch.
    labels_key
        `obs` column of the classes, e.g. of :func:`~scbert_cll.pp.label_cd49d`; of a corpus one of
        its `obs_columns`.
    split_key
        `obs` column of :func:`~scbert_cll.pp.split_donors`.
    weight_key
        `obs` column of :func:`~scbert_cll.pp.balance`; used where it exists. None: every training
        cell counts the same.
    donor_key
        `obs` column of donors, so that cells the linear part holds out are of other donors. None:
        all cells count as one donor's.
    protein_key
        `obsm` with the raw counts of all measured proteins (cells × proteins), to be learned beside
        the class: more to learn from per cell, unlabelled training cells included. Needed for
        training only. Proteins with missing or negative values are left out, with a warning that
        names them. As `split_key`, `weight_key`, `donor_key` and `layer` not for a corpus, which
        was split and binned when it was built.
    layer, exclude_genes, network
        Without a pretrained model: as in :func:`~scbert_cll.tl.pretrain`; `network` also takes
        `preset`.
    combine
        What is predicted: ``"average"``, the mean of the network's and the logistic regression's
        log-probabilities; ``"residual"``, a network that learns what the logistic regression leaves
        to be learned (not on a corpus); ``"none"``, the network alone.
    freeze
        ``"none"`` trains everything, ``"encoder"`` only the head, ``"scbert"`` follows the
        published recipe.
    max_epochs
        Passes over the training cells; None: fewer for more cells, 8 to 20.
    early_stopping
        Stop when the validation loss no longer falls, and keep the best epoch instead of the last.
    batch_size, accelerator, rng
        As in :func:`~scbert_cll.tl.pretrain`.
    balance, num_workers
        For the path of a corpus: `obs` columns, e.g. ``("cd49d", "donor")``, whose combinations are
        drawn equally often in training, and processes that read ahead; see
        :class:`~scbert_cll.model.CorpusData`.
    key_added
        In place of ``scbert`` in the names of the results, as in :func:`~scbert_cll.tl.predict`;
        the entry of `uns` is `key_added` itself. Not for a corpus.
    **train
        Passed to :meth:`ScBERTClassifier.train <scbert_cll.model.ScBERTClassifier.train>` and
        Lightning's trainer, e.g. ``checkpoint_dir="run"``: a training that was interrupted then
        goes on when it is called the same way.

    Returns
    -------
    The trained :class:`~scbert_cll.model.ScBERTClassifier`. In `adata`, if that is an AnnData:

    ``adata.obs['scbert_pred']`` : categorical
        Most probable class.
    ``adata.obs['scbert_score']`` : float32
        Its probability, the largest softmax value.
    ``adata.obsm['scbert_proba']`` : DataFrame (cells × classes), float32
        Probability of every class.
    ``adata.obsm['linear_proba']`` : DataFrame (cells × classes), float32
        The same of the logistic regression alone.
    ``adata.obsm['X_scbert']`` : float32 array (cells, n_hidden)
        Mean of a cell's refined tokens.
    ``adata.uns['scbert']`` : dict
        Parameters, network, version and training history; ``linear``: how it is combined, and its
        penalty; ``comparison``: scores of the logistic regression, the network and what is
        predicted on validation and test cells; ``n_threads``: PyTorch's threads in training. An
        entry of an earlier :func:`~scbert_cll.tl.predict` goes, since what it was of is replaced.

    Columns of the tables are the classes; a class that no file can hold as a name, such as
    ``T/NK``, is ``T%2FNK`` there. :func:`get.predictions <scbert_cll.get.predictions>` gives the
    classes' own names.

    Raises
    ------
    KeyError
        Layer, labels, split or gene vectors are missing; the ones that exist are listed.
    ValueError
        Fewer than two classes, or a class without a labelled training cell. The corpus is damaged,
        or an argument is not for a corpus, or only for one. There is no such device, or it cannot
        compute with this `precision`. Gene vectors or numbers of the training are not finite; or
        the training diverged: `adata` is as it was, and ``error.model`` has the weights of the best
        epoch before, if there was one.
    TypeError
        No argument of this name, in `train` or `network`; the nearest one is named.
    FileNotFoundError
        There is no such corpus.
    %(no_annbatch)s

    Examples
    --------
    .. code-block:: python

        classifier = sc_cll.tl.finetune("corpus.zarr", model, balance=("cd49d", "donor"))

    References
    ----------
    Yang et al. 2022, doi:10.1038/s42256-022-00534-z.
    """
    params = _record.params(arguments := locals())
    of_trainer = train | {"accelerator": accelerator}
    options = Finetuning.of("tl.finetune", arguments, of_trainer)
    check_network(network or {}, "preset")
    choices: dict[str, Any] = {"rng": rng, **(network or {})}
    labelled = choices | {"labels_key": labels_key}
    if isinstance(adata, ON_DISK):
        _write.usual(layer=layer, **options.columns, key_added=key_added)
        binning = None if model is None else model.binning
        data = opened(adata, balance=balance, num_workers=num_workers, binning=binning)
        classifier = (
            ScBERTClassifier.from_corpus(data, exclude_genes=exclude_genes, **labelled)
            if model is None
            else ScBERTClassifier.from_pretrained(model, data, **labelled)
        )
        training.finetune(classifier, options.without_columns(), data)
        return classifier
    given = {"balance": bool(balance), "num_workers": num_workers != 0}
    refuse_given(given, f"{ONLY_OF_A_CORPUS} Balance with pp.balance.")
    _checks.adata.target(_checks.adata.anndata(adata), copy=False)
    options = replace(options, donor_key=_checks.people.donor_key_of(adata, donor_key))
    slots, columns = _write.Slots.of(key_added), options.columns
    obsm = {"protein_key": columns.pop("protein_key")}
    obs = {"labels_key": labels_key, **columns}
    slots.check(layer if model is None else model.layer, obs, obsm)
    _checks.adata.split(adata, split_key)
    _checks.adata.obs_column(adata, labels_key)
    weight_key = weight_key if weight_key in adata.obs else None
    options = replace(options, weight_key=weight_key)
    with _record.untouched_on_error(adata):
        if model is None:
            ScBERTClassifier.setup_anndata(
                adata, labels_key=labels_key, layer=layer, exclude_genes=exclude_genes
            )
            classifier = ScBERTClassifier(adata, **choices)
        else:
            classifier = ScBERTClassifier.from_pretrained(model, adata, **labelled)
        training.finetune(classifier, options, None)
        parts = classifier.predict_parts(adata)
        params |= {"weight_key": weight_key, "donor_key": options.donor_key}
        record = _write.record(classifier, params | classifier.not_donors_)
        record["n_threads"] = classifier.n_threads_
        record["comparison"] = _write.comparison(adata, parts, labels_key, split_key)
        results = _write.predictions(classifier, parts, slots, None)
        old = [("uns", slots.predict)]  # of the model that is replaced
        _record.write(adata, **results, uns={slots.key: record}, replaces=old)
    return classifier
