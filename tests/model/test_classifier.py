"""ScBERTClassifier: labels, weights, freezing, the best epoch, and what it takes over from a
pretrained model.
"""

from __future__ import annotations

import signal

import lightning.pytorch as L
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse
from sklearn.linear_model import Ridge
from sklearn.metrics import f1_score

from scbert_cll import pp
from scbert_cll.model import ScBERT, ScBERTClassifier
from scbert_cll.nn import Config

QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "split_key": "split", "batch_size": 32}


def state(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.module.state_dict().items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def values(model, name: str) -> list[float]:
    return model.history[name][name].tolist()


def rows(adata: AnnData, part: str) -> np.ndarray:
    return np.flatnonzero(adata.obs["split"] == part)


def poison(
    adata: AnnData, which: np.ndarray, *, tokens: bool = True, label: str | None = None
) -> AnnData:
    """The same cells with other tokens, or another label, in some rows."""
    poisoned = adata.copy()
    if tokens:
        changed = adata.layers["binned"].tolil()
        changed[which] = np.random.default_rng(9).integers(1, 6, (len(which), adata.n_vars))
        poisoned.layers["binned"] = changed.tocsr()
    if label is not None:
        poisoned.obs.iloc[which, poisoned.obs.columns.get_loc("label")] = label
    return poisoned


def losses(model, adata: AnnData, which: np.ndarray) -> np.ndarray:
    """Cross-entropy of each cell, from the predicted probabilities."""
    probabilities = model.predict(adata, soft=True).to_numpy()[which]
    codes = pd.Categorical(adata.obs["label"], model.classes).codes[which]
    return -np.log(probabilities[np.arange(len(which)), codes])


# ---- prediction


def test_predictions_are_a_categorical_and_probabilities(classifier, new_cells):
    soft = classifier.predict(new_cells, soft=True)
    assert list(soft) == classifier.classes == ["a", "b"]
    assert (soft.dtypes == np.float32).all()
    np.testing.assert_allclose(soft.sum(axis=1), 1, rtol=1e-6)
    hard = classifier.predict(new_cells)
    assert list(hard.cat.categories) == ["a", "b"]
    assert list(hard.index) == list(soft.index) == list(new_cells.obs_names)
    assert (hard.astype(object) == soft.idxmax(axis=1)).all()
    probabilities, latent = classifier.predict_and_embed(new_cells)
    assert probabilities.equals(soft)
    assert np.array_equal(latent, classifier.get_latent_representation(new_cells))


def test_labels_are_not_read_to_predict(classifier, new_cells):
    before = classifier.predict(new_cells, soft=True)
    new_cells.obs["label"] = "something else"
    assert classifier.predict(new_cells, soft=True).equals(before)


def test_an_untrained_classifier_does_not_predict(adata, scbert):
    ScBERTClassifier.setup_anndata(adata, labels_key="label")
    untrained = [ScBERTClassifier(adata, gene_embedding="learned")]
    untrained += [ScBERTClassifier.from_pretrained(scbert, adata, labels_key="label")]
    for model in untrained:
        with pytest.raises(RuntimeError, match=r"has not been trained; call .train"):
            model.predict()


def test_training_learns_the_planted_signal(adata, classify):
    model = classify(adata, 15, lr=1e-2)
    test = rows(adata, "test")
    right = (model.predict().astype(object) == adata.obs["label"].astype(object)).to_numpy()[test]
    assert right.mean() > 0.85  # of 20 cells; guessing gets 16 or more right in 1 of 170 tries
    assert model.history.keys() == {
        f"{name}_{part}" if name != "loss" else f"{part}_loss"
        for name in ("loss", "accuracy", "macro_f1")
        for part in ("train", "validation")
    }
    assert values(model, "macro_f1_train")[-1] > values(model, "macro_f1_train")[0]


def test_no_signal_no_accuracy(adata, classify):
    adata.obs["label"] = np.random.default_rng(0).permutation(adata.obs["label"].to_numpy())
    model = classify(adata, 15, lr=1e-2)
    right = (model.predict().astype(object) == adata.obs["label"].astype(object)).to_numpy()[
        rows(adata, "test")
    ]
    assert 0.2 < right.mean() < 0.8


# ---- set-up and labels


def test_set_up_needs_the_labels(adata):
    with pytest.raises(
        KeyError, match=r"'cd49d' is not in adata.obs; it has 'donor', 'label', 'split'"
    ):
        ScBERTClassifier.setup_anndata(adata, labels_key="cd49d")
    adata.obs["one"] = "a"
    ScBERTClassifier.setup_anndata(adata, labels_key="one")
    with pytest.raises(ValueError, match=r"'one'. needs at least two classes; found 'a'"):
        ScBERTClassifier(adata, gene_embedding="learned")
    ScBERTClassifier.setup_anndata(adata, labels_key="label")
    with pytest.raises(ValueError, match='head="scbert" reads every gene and needs tokens="all"'):
        ScBERTClassifier(adata, gene_embedding="learned", head="scbert")
    registry = ScBERTClassifier(adata, gene_embedding="learned").registry
    assert registry["setup_args"] == {"labels_key": "label", "layer": "binned", "exclude_genes": []}
    with pytest.raises(ValueError, match="needs labels_key= and classes="):
        ScBERTClassifier(registry=registry)
    with pytest.raises(ValueError, match="needs binning=, the uns record"):
        ScBERTClassifier(registry=registry, labels_key="label", classes=["a", "b"])


@pytest.mark.parametrize("kind", ["ordered", "text", "numbers", "truth values"])
def test_labels_of_any_kind(adata, classify, kind):
    is_b = (adata.obs["label"] == "b").to_numpy()
    labels, classes = {
        "ordered": (
            pd.Categorical(np.where(is_b, "high", "low"), ["zero", "low", "high"], ordered=True),
            ["low", "high"],
        ),
        "text": (np.where(is_b, "x", "y").astype(object), ["x", "y"]),
        "numbers": (np.where(is_b, 10, 9), ["9", "10"]),
        "truth values": (is_b, ["False", "True"]),
    }[kind]
    adata.obs["mine"] = labels
    model = classify(adata, 1, setup={"labels_key": "mine"})
    assert model.classes == classes
    assert list(model.predict().cat.categories) == classes


def test_unlabelled_cells_are_not_trained_on(adata, classify):
    unlabelled = rows(adata, "train")[::3]
    adata.obs.iloc[unlabelled, adata.obs.columns.get_loc("label")] = np.nan
    model = classify(adata.copy())
    assert not set(model.train_indices) & set(unlabelled)
    assert model.predict().notna().all()
    assert equal(state(classify(poison(adata, unlabelled))), state(model))
    assert not equal(state(classify(poison(adata, rows(adata, "train")[1::3]))), state(model))


def test_test_cells_are_never_seen(adata, classify):
    expected = classify(adata.copy(), 3)
    assert equal(state(classify(poison(adata, rows(adata, "test"), label="a"), 3)), state(expected))
    assert not equal(
        state(classify(poison(adata, rows(adata, "train")[:3], tokens=False, label="a"), 3)),
        state(expected),
    )


def test_validation_cells_choose_the_epoch_and_teach_nothing(adata, classify):
    every_epoch = {"early_stopping": False, "limit_val_batches": 0}
    expected = classify(adata.copy(), 3, **every_epoch)
    assert equal(
        state(classify(poison(adata, rows(adata, "val"), label="a"), 3, **every_epoch)),
        state(expected),
    )


def test_classes_without_a_training_cell_are_named(adata):
    adata.obs["label"] = adata.obs["label"].cat.add_categories(["c", "d"])
    adata.obs.iloc[rows(adata, "test")[:3], adata.obs.columns.get_loc("label")] = "c"
    ScBERTClassifier.setup_anndata(adata, labels_key="label")
    model = ScBERTClassifier(adata, gene_embedding="learned")
    assert model.classes == ["a", "b", "c"]
    with pytest.raises(
        ValueError,
        match=r"No labelled training cell of class 'c' in adata.obs.'label'.*training donors",
    ):
        model.train(1, **QUIET)


def test_unknown_classes_are_named(adata):
    ScBERTClassifier.setup_anndata(adata, labels_key="label")
    model = ScBERTClassifier(adata, gene_embedding="learned")
    adata.obs["label"] = adata.obs["label"].cat.rename_categories({"b": "B"})
    with pytest.raises(ValueError, match="classes the model does not know: 'B'; it knows 'a', 'b'"):
        model.train(1, **QUIET)


def test_training_numbers_are_checked(adata):
    ScBERTClassifier.setup_anndata(adata, labels_key="label")
    model = ScBERTClassifier(adata, gene_embedding="learned")
    for wrong, match in [
        ({"batch_size": 1}, "batch_size must be a whole number from 2"),
        ({"max_epochs": -1}, "max_epochs must be a whole number from 1"),
        ({"token_drop": 1.5}, "token_drop must be a number from 0 to 1"),
        ({"freeze": "all"}, "freeze must be one of 'none', 'encoder', 'scbert'; found 'all'"),
    ]:
        with pytest.raises(ValueError, match=match):
            model.train(**{"max_epochs": 1} | QUIET | wrong)


# ---- training


def test_same_seed_same_weights(adata, classify):
    how = {"network": {"dropout": 0.3}, "token_drop": 0.3}
    first, second = classify(adata.copy(), **how, rng=3), classify(adata.copy(), **how, rng=3)
    assert equal(state(first), state(second))
    assert all(values(first, name) == values(second, name) for name in first.history)
    assert not equal(state(first), state(classify(adata.copy(), **how, rng=4)))
    assert not equal(
        state(first), state(classify(adata.copy(), **how | {"token_drop": 0.0}, rng=3))
    )


@pytest.mark.parametrize("batch_size", [7, 19, 32])
def test_the_kept_weights_have_the_lowest_validation_loss(adata, classify, batch_size):
    """The loss is that of single cells, so how they are put into batches makes no difference."""
    model = classify(adata, 6, batch_size=batch_size, early_stopping=True)
    expected = losses(model, adata, rows(adata, "val")).mean()
    assert min(values(model, "validation_loss")) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("batch_size", [7, 32])
def test_validation_cells_count_as_their_class_does_in_training(adata, classify, batch_size):
    adata.obs["weight"] = np.where(adata.obs["label"] == "a", 0.25, 3.0)
    adata = adata[np.argsort(adata.obs["label"], kind="stable")].copy()  # batches of one class
    adata.obs.loc[adata.obs["split"] != "train", "weight"] = np.nan
    model = classify(adata, 4, batch_size=batch_size, weight_key="weight", early_stopping=True)
    val = rows(adata, "val")
    weight = np.where(adata.obs["label"].iloc[val] == "a", 0.25, 3.0)
    expected = np.average(losses(model, adata, val), weights=weight)
    assert min(values(model, "validation_loss")) == pytest.approx(expected, rel=1e-5)


def test_macro_f1_is_of_all_validation_cells_together(adata, classify):
    model = classify(adata, 5, batch_size=7, early_stopping=True)
    best = int(np.argmin(values(model, "validation_loss")))
    val = rows(adata, "val")
    guess = model.predict().astype(object).iloc[val]
    truth = adata.obs["label"].astype(object).iloc[val]
    assert values(model, "macro_f1_validation")[best] == pytest.approx(
        f1_score(truth, guess, average="macro"), abs=1e-6
    )
    assert values(model, "accuracy_validation")[best] == pytest.approx(
        (truth == guess).mean(), abs=1e-6
    )


def test_a_last_batch_of_one_cell_joins_the_one_before(adata, classify):
    adata.obs["split"] = ["train"] * 33 + ["val"] * 40 + ["test"] * 47
    model = classify(adata, 1, batch_size=32)
    assert len(model.train_indices) == 33


def test_without_validation_cells_the_last_epoch_is_kept(adata, classify):
    adata.obs["split"] = adata.obs["split"].replace("val", "train")
    model = classify(adata, 3, early_stopping_patience=1)
    assert model.history.keys() == {"train_loss", "accuracy_train", "macro_f1_train"}
    assert len(model.history["train_loss"]) == 3


def test_without_a_split_a_tenth_of_the_cells_validates(adata, classify):
    model = classify(adata, 1, split_key=None)
    assert (len(model.train_indices), len(model.validation_indices)) == (108, 12)


def test_donors_are_meant_by_default(adata, classify):
    """A column that is missing, and that nobody named, is one donor for one more release."""
    how = {"max_epochs": 1, "combine": "residual"}
    by_default, named, one = (
        classify(adata.copy(), **how, **donors).module.state_dict()
        for donors in ({}, {"donor_key": "donor"}, {"donor_key": None})
    )
    assert all(torch.equal(tensor, by_default[name]) for name, tensor in named.items())
    assert not all(torch.equal(tensor, one[name]) for name, tensor in named.items())
    del adata.obs["donor"]
    with pytest.warns(FutureWarning, match=r"no column 'donor'.*donor_key=None"):
        without = classify(adata, **how).module.state_dict()
    assert all(torch.equal(tensor, without[name]) for name, tensor in one.items())
    with pytest.raises(KeyError, match=r"'person' is not in adata\.obs"):
        classify(adata, donor_key="person")


# ---- weights


def test_cells_of_no_weight_take_no_part(adata, classify):
    adata.obs["weight"] = 1.0
    nothing = rows(adata, "train")[::4]
    adata.obs.iloc[nothing, adata.obs.columns.get_loc("weight")] = 0.0
    model = classify(adata.copy(), weight_key="weight")
    poisoned = classify(poison(adata, nothing, label="b"), weight_key="weight")
    assert equal(state(poisoned), state(model))
    assert values(poisoned, "validation_loss") == values(model, "validation_loss")
    assert not equal(state(classify(adata.copy())), state(model))


def test_equal_weights_are_no_weights(adata, classify):
    adata.obs["weight"] = 4.0
    plain, weighted = classify(adata.copy()), classify(adata.copy(), weight_key="weight")
    for name, tensor in state(plain).items():
        torch.testing.assert_close(state(weighted)[name], tensor, rtol=1e-4, atol=1e-5)


def test_weights_move_the_prediction(adata, classify):
    adata.obs["label"] = np.random.default_rng(0).permutation(
        adata.obs["label"].to_numpy()
    )  # nothing else to learn
    adata.obs["weight"] = np.where(adata.obs["label"] == "b", 20.0, 1.0)
    how = {"max_epochs": 8, "lr": 1e-2, "early_stopping": False}
    weighted = classify(adata.copy(), **how, weight_key="weight").predict(soft=True)["b"].mean()
    assert weighted > classify(adata.copy(), **how).predict(soft=True)["b"].mean() + 0.2


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf, "heavy"])
def test_bad_weights_are_refused(adata, classify, bad):
    adata.obs["weight"] = pd.Series(1.0, adata.obs_names).astype(
        object if bad == "heavy" else float
    )
    adata.obs.iloc[rows(adata, "train")[5], adata.obs.columns.get_loc("weight")] = bad
    with pytest.raises(
        ValueError, match=r"'weight'. must hold finite weights of zero or more .* pp.balance"
    ):
        classify(adata, weight_key="weight")


def test_weights_that_are_missing_or_all_zero_are_refused(adata, classify):
    with pytest.raises(KeyError, match=r"'weight' is not in adata.obs"):
        classify(adata.copy(), weight_key="weight")
    adata.obs["weight"] = 0.0
    with pytest.raises(ValueError, match="must hold finite weights"):
        classify(adata, weight_key="weight")


# ---- freezing

FROZEN = {
    "none": lambda name: False,
    "encoder": lambda name: not name.startswith("head."),
    "scbert": lambda name: (
        not name.startswith(("head.", "norm.", "blocks.1."))
    ),  # three blocks: the last but one
}


@pytest.mark.parametrize("freeze", FROZEN)
def test_exactly_the_frozen_weights_stay(adata, freeze):
    ScBERTClassifier.setup_anndata(adata, labels_key="label")
    model = ScBERTClassifier(adata, gene_embedding="learned", n_hidden=16, n_heads=2, n_layers=3)
    before = state(model)
    model.train(2, freeze=freeze, **QUIET)
    constant = {n for n in before if n.endswith("projection")} | {
        "to_bins.weight",
        "to_bins.bias",
    }  # no gradient ever
    same = {name for name, tensor in state(model).items() if torch.equal(tensor, before[name])}
    assert same == {name for name in before if FROZEN[freeze](name)} | constant


@pytest.mark.parametrize(
    ("choice", "stays"),
    [
        ({"train_gene_embedding": False}, True),
        ({"gene_embedding": "sinusoidal"}, True),
        ({}, False),
    ],
)
def test_gene_vectors_train_unless_told_otherwise(adata, choice, stays):
    ScBERTClassifier.setup_anndata(adata, labels_key="label")
    model = ScBERTClassifier(adata, **{"gene_embedding": "learned"} | choice)
    before = state(model)["gene_embedding.weight"]
    model.train(1, **QUIET)
    assert torch.equal(state(model)["gene_embedding.weight"], before) == stays


# ---- from a pretrained model


def test_everything_but_the_head_is_taken_over(scbert, adata):
    model = ScBERTClassifier.from_pretrained(scbert, adata, labels_key="label")
    old, new = state(scbert), state(model)
    assert {name for name in new if name not in old} == {
        name for name in new if name.startswith("head.")
    }
    assert all(torch.equal(new[name], tensor) for name, tensor in old.items())
    assert model.binning["params"] == scbert.binning["params"]
    assert model.genes.equals(scbert.genes)
    assert {k: v for k, v in vars(model.config).items() if v != getattr(scbert.config, k)} == {
        "n_classes": 2
    }
    other = ScBERTClassifier.from_pretrained(scbert, adata, labels_key="label", rng=1)
    assert not torch.equal(state(other)["head.classify.weight"], new["head.classify.weight"])


def test_the_head_can_be_chosen_and_nothing_that_does_not_fit(
    scbert, adata, pretrain, published_network
):
    model = ScBERTClassifier.from_pretrained(scbert, adata, labels_key="label", dropout=0.5)
    assert model.config == Config(**vars(scbert.config) | {"n_classes": 2, "dropout": 0.5})
    whole = pretrain(adata, 1, network=published_network | {"head": "pool"})
    assert (
        ScBERTClassifier.from_pretrained(whole, labels_key="label", head="scbert").config.head
        == "scbert"
    )
    with pytest.raises(
        TypeError,
        match=r"'n_heads', 'width' would not fit the pretrained weights; .* may choose 'dropout', "
        r"'head'",
    ):
        ScBERTClassifier.from_pretrained(scbert, adata, labels_key="label", n_heads=4, width=3)


def test_only_a_scbert_is_a_pretrained_model(classifier, scbert, adata):
    with pytest.raises(TypeError, match=r"Expected a model .'ScBERT'., found ScBERTClassifier"):
        ScBERTClassifier.from_pretrained(classifier, adata, labels_key="label")
    with pytest.raises(KeyError, match=r"'cd49d' is not in adata.obs"):
        ScBERTClassifier.from_pretrained(scbert, adata, labels_key="cd49d")


def fine_tuned(scbert: ScBERT, adata: AnnData | None, **how) -> ScBERTClassifier:
    model = ScBERTClassifier.from_pretrained(scbert, adata, labels_key="label")
    model.train(2, **QUIET | how)
    return model


def test_genes_in_another_order_train_the_same_classifier(scbert, adata):
    expected = state(fine_tuned(scbert, adata))
    shuffled = np.random.default_rng(0).permutation(adata.n_vars)
    assert equal(state(fine_tuned(scbert, adata[:, shuffled].copy())), expected)


def test_the_pretrained_model_is_left_as_it_was(adata, pretrain):
    scbert = pretrain(adata)
    before, grad = state(scbert), [p.requires_grad for p in scbert.module.parameters()]
    keys = set(adata.uns)
    model = fine_tuned(scbert, None, freeze="encoder")  # its own cells
    assert model.adata is adata
    assert equal(state(scbert), before)
    assert [p.requires_grad for p in scbert.module.parameters()] == grad
    assert not {t.data_ptr() for t in scbert.module.parameters()} & {
        t.data_ptr() for t in model.module.parameters()
    }
    assert set(adata.uns) == keys


def test_the_pretrained_models_layer_is_read(adata, pretrain):
    tokens = adata.copy()
    tokens.layers["tokens"], tokens.uns["tokens"] = (
        tokens.layers.pop("binned"),
        tokens.uns.pop("binned"),
    )
    scbert = pretrain(tokens, setup={"layer": "tokens"})
    with pytest.raises(KeyError, match=r"'tokens' is not in adata.layers; it has 'binned'"):
        fine_tuned(scbert, adata)
    other = pretrain(adata)
    assert equal(state(fine_tuned(scbert, tokens)), state(fine_tuned(other, adata)))


def test_a_loaded_pretrained_model_is_as_good(scbert, adata, tmp_path):
    scbert.save(tmp_path / "model")
    loaded = ScBERT.load(tmp_path / "model", accelerator="cpu")
    with pytest.raises(ValueError, match="loaded without cells"):
        fine_tuned(loaded, None)
    assert equal(state(fine_tuned(loaded, adata)), state(fine_tuned(scbert, adata)))


class PressCtrlC(L.Callback):
    """As a user would, in the third epoch."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 2:
            raise KeyboardInterrupt


class StopAfterTwo(L.Callback):
    """End by Lightning's own means after the second epoch."""

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = trainer.current_epoch == 1


def test_ctrl_c_keeps_the_best_epoch_and_training_goes_on(adata):
    handler = signal.getsignal(signal.SIGINT)
    ScBERTClassifier.setup_anndata(adata, labels_key="label")
    model = ScBERTClassifier(adata, n_hidden=16, n_heads=2, gene_embedding="learned")
    with pytest.raises(KeyboardInterrupt, match="The model has its best epoch"):
        model.train(5, callbacks=[PressCtrlC()], **QUIET)
    assert signal.getsignal(signal.SIGINT) is handler
    assert len(model.history["validation_loss"]) == 2
    before = model.predict(soft=True)

    two = ScBERTClassifier(adata, n_hidden=16, n_heads=2, gene_embedding="learned")
    two.train(5, callbacks=[StopAfterTwo()], **QUIET)  # the same two epochs without the key
    np.testing.assert_array_equal(before, two.predict(soft=True))

    model.train(1, **QUIET)
    assert not np.array_equal(before, model.predict(soft=True))


# ---- proteins as further things to learn


def with_proteins(adata: AnnData) -> AnnData:
    """A protein that moves together with ten genes, none of them the class's; one that says
    nothing; and a constant one.
    """
    rng = np.random.default_rng(0)
    level = rng.normal(0, 1, (adata.n_obs, 1))
    counts = adata.X.toarray()
    counts[:, 20:30] = rng.poisson(2 * np.exp(level) * np.ones(10))
    adata.X = sparse.csr_matrix(counts)
    pp.bin_expression(adata, target_sum=300)
    adata.obsm["protein"] = pd.DataFrame(
        {"A": rng.poisson(20 * np.exp(level[:, 0])), "B": rng.poisson(20, adata.n_obs), "C": 1},
        index=adata.obs_names,
    )
    return adata


def test_proteins_teach_the_encoder_what_labels_do_not(simulate, classify):
    adata = with_proteins(simulate(240))
    level = np.log1p(adata.obsm["protein"]["A"].to_numpy())
    train, test = rows(adata, "train"), rows(adata, "test")

    def explained(**how) -> float:
        latent = classify(adata.copy(), 20, batch_size=16, **how).get_latent_representation()
        return Ridge(1e-3).fit(latent[train], level[train]).score(latent[test], level[test])

    assert explained(protein_key="protein") > explained() + 0.05


def test_the_end_of_the_labels_is_not_the_end_of_the_proteins(simulate, classify):
    """Unlabelled training cells change what is learned with proteins, and nothing without."""
    adata = with_proteins(simulate())
    train = rows(adata, "train")
    adata.obs.loc[adata.obs_names[train[:20]], "label"] = None
    other = poison(adata, train[:20])
    assert equal(state(classify(adata.copy())), state(classify(other.copy())))
    both = [state(classify(a.copy(), protein_key="protein")) for a in (adata, other)]
    assert not equal(*both)


def test_prediction_needs_no_protein(simulate, classify, new_cells):
    model = classify(with_proteins(simulate()), protein_key="protein")
    assert "protein" not in new_cells.obsm
    assert model.predict(new_cells, soft=True).to_numpy().sum(1) == pytest.approx(1, abs=1e-5)


def test_held_out_proteins_are_not_looked_at(simulate, classify):
    adata = with_proteins(simulate())
    other = adata.copy()
    held = np.flatnonzero(adata.obs["split"] != "train")
    other.obsm["protein"].iloc[held] = 1000
    assert equal(*(state(classify(a, protein_key="protein")) for a in (adata, other)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((120, 2), -1.0), "must hold raw protein counts: finite, none negative"),
        (np.full((120, 2), np.nan), "must hold raw protein counts"),
        (np.full((120, 2), "x"), "must hold numbers"),
    ],
)
def test_proteins_must_be_counts(simulate, classify, values, message):
    adata = simulate()
    adata.obsm["protein"] = values
    with pytest.raises(ValueError, match=message):
        classify(adata, protein_key="protein")
    with pytest.raises(KeyError, match=r"mdata\[.prot.\]\.to_df"):
        classify(simulate(), protein_key="protein")
