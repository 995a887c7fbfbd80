"""ScBERT: set-up, genes by name, one cell at a time, training on hidden genes, attention."""

from __future__ import annotations

import random

import anndata as ad
import lightning.pytorch as L
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse

from scbert_cll import pp
from scbert_cll.model import ScBERT, ScBERTClassifier
from scbert_cll.model.explain import attention
from scbert_cll.nn import favor
from scbert_cll.nn.context import Kernel
from tests.nn._naive import naive_attention_matrix, naive_features


def state(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.module.state_dict().items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def poison(adata: AnnData, rows: np.ndarray) -> AnnData:
    """The same cells with other tokens in `rows`."""
    poisoned = adata.copy()
    tokens = adata.layers["binned"].tolil()
    tokens[rows] = np.random.default_rng(9).integers(1, 6, (len(rows), adata.n_vars))
    poisoned.layers["binned"] = tokens.tocsr()
    return poisoned


def history(model) -> dict[str, list[float]]:
    return {name: frame[name].tolist() for name, frame in model.history.items()}


# ---- set-up


def test_a_model_as_scvi_users_know_it(scbert, capsys):
    assert scbert.is_trained
    assert scbert.adata.n_obs == 120
    assert scbert.registry["setup_args"] == {"layer": "binned", "exclude_genes": []}
    assert list(scbert.get_var_names()) == list(scbert.genes) == [f"G{i}" for i in range(60)]
    assert scbert.summary_stats.n_vars == 60
    assert scbert.device == torch.device("cpu")
    assert repr(scbert) == ""  # scvi-tools prints
    said = capsys.readouterr().out
    assert "ScBERT: Config(n_genes=60, n_bins=5, n_hidden=16" in said
    assert "Training status: Trained" in said


@pytest.mark.parametrize("cls", [ScBERT, ScBERTClassifier])
def test_views_and_backed_objects_are_not_set_up(cls, adata, tmp_path):
    labels = {} if cls is ScBERT else {"labels_key": "label"}
    with pytest.raises(ValueError, match="view of another AnnData"):
        cls.setup_anndata(adata[:50], **labels)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    with pytest.raises(ValueError, match=r"backed by .* read it into memory"):
        cls.setup_anndata(backed, **labels)
    backed.file.close()
    with pytest.raises(TypeError, match="Expected an AnnData, found DataFrame"):
        cls.setup_anndata(adata.obs, **labels)


def test_set_up_needs_tokens_and_their_record(adata):
    with pytest.raises(
        KeyError, match=r"'tokens' is not in adata.layers; it has 'binned'. Bin the counts first"
    ):
        ScBERT.setup_anndata(adata, layer="tokens")
    with pytest.raises(KeyError, match=r"'ITGA4' not in adata.var_names"):
        ScBERT.setup_anndata(adata, exclude_genes=["ITGA4"])
    adata.layers["binned"][3, 4] = 6
    with pytest.raises(ValueError, match=r"may hold bins 0 to 5; found 6 .cell 'cell3', gene 'G4'"):
        ScBERT.setup_anndata(adata)
    del adata.uns["binned"]
    with pytest.raises(ValueError, match=r"does not say how adata.layers.'binned'. was binned"):
        ScBERT.setup_anndata(adata)
    assert not [key for key in adata.uns if "scvi" in key]


def test_a_model_needs_cells_that_were_set_up(adata):
    with pytest.raises(ValueError, match="setup_anndata"):
        ScBERT(adata, gene_embedding="learned")
    with pytest.raises(ValueError, match="adata or registry must be provided"):
        ScBERT()


def test_network_choices_are_checked(adata):
    ScBERT.setup_anndata(adata)
    with pytest.raises(
        TypeError, match=r"The network has no argument 'n_hiden' .did you mean 'n_hidden'"
    ):
        ScBERT(adata, gene_embedding="learned", n_hiden=16)
    with pytest.raises(TypeError, match="The network has no argument 'n_genes'"):
        ScBERT(adata, gene_embedding="learned", n_genes=16)
    with pytest.raises(ValueError, match="preset must be one of 'small', 'scbert'; found 'large'"):
        ScBERT(adata, preset="large")
    with pytest.raises(
        KeyError, match=r"is not in adata.varm; it has none. Make them with tl.gene2vec"
    ):
        ScBERT(adata)
    for wrong in (
        {"tokens": "half"},
        {"attention": "softmax"},
        {"stabilizer": "row"},
        {"gene_embedding": "svd"},
    ):
        (name,) = wrong
        with pytest.raises(ValueError, match=f"{name} must be one of '"):
            ScBERT(adata, **wrong)
    for wrong in ({"n_background": 0}, {"n_hidden": 16.5}, {"n_layers": -1}):
        (name,) = wrong
        with pytest.raises(ValueError, match=f"{name} must be a whole number from 1"):
            ScBERT(adata, **wrong)


def test_presets_can_be_changed_in_single_choices(adata):
    ScBERT.setup_anndata(adata)
    small = ScBERT(adata, gene_embedding="none").config
    assert (small.tokens, small.head, small.n_layers, small.n_genes) == ("expressed", "pool", 1, 60)
    published = ScBERT(adata, preset="scbert", gene_embedding="none", n_layers=1).config
    assert (published.n_hidden, published.n_heads, published.dim_head, published.n_layers) == (
        200,
        10,
        64,
        1,
    )
    assert (published.tokens, published.head, published.end_token) == ("all", "scbert", True)


def test_gene_vectors_start_the_gene_embedding_by_name(adata):
    adata.varm["gene2vec"] = np.random.default_rng(0).normal(size=(60, 32)).astype(np.float32)
    ScBERT.setup_anndata(adata, exclude_genes=["G0", "G30"])
    model = ScBERT(adata)
    kept = ~adata.var_names.isin(["G0", "G30"])
    assert np.array_equal(
        model.module.gene_embedding.weight.numpy(force=True), adata.varm["gene2vec"][kept]
    )


# ---- genes by name


def test_order_of_genes_does_not_matter(model, new_cells, answers, same):
    same(answers(model, new_cells[:, ::-1].copy()), answers(model, new_cells), atol=0)


def test_extra_genes_do_not_matter(model, new_cells, simulate, answers, same):
    extra = simulate(40, 25, seed=5)
    extra.var_names = [f"other{i}" for i in range(25)]
    both = ad.concat([extra, new_cells], axis="var")
    both.uns["binned"] = new_cells.uns["binned"]
    same(answers(model, both), answers(model, new_cells), atol=0)


def test_missing_genes_are_not_expressed(model, new_cells, answers, same):
    silent = new_cells.copy()
    tokens = silent.layers["binned"].tolil()
    tokens[:, :25] = 0
    silent.layers["binned"] = tokens.tocsr()
    with pytest.warns(UserWarning, match="25 of the model's 60 genes are not in adata .'G0'"):
        found = answers(model, new_cells[:, 25:].copy())
    same(found, answers(model, silent), atol=0)
    assert np.abs(found["latent"] - answers(model, new_cells)["latent"]).max() > 1e-3


def test_too_few_known_genes_are_refused(model, new_cells):
    with pytest.raises(
        ValueError,
        match=r"20 of the model's 60 genes are in adata, expected at least 50%.*Only the model has "
        r"'G20'",
    ):
        model.get_latent_representation(new_cells[:, :20].copy())


def rebinned(adata: AnnData, **how) -> AnnData:
    again = AnnData(adata.X, obs=adata.obs, var=adata.var)
    pp.bin_expression(again, **{"target_sum": 300} | how)
    return again


OTHER_BINS = {
    "n_bins": ({"n_bins": 7}, "n_bins is 7, the model has 5"),
    "fewer bins": ({"n_bins": 3}, "n_bins is 3, the model has 5"),
    "method": ({"method": "quantile"}, "method is 'quantile', the model has 'log2'"),
    "depth": ({"target_sum": 1e4}, "target_sum is 10000.0, the model has 300.0"),
}


@pytest.mark.parametrize("other", OTHER_BINS)
def test_other_bins_are_refused(model, new_cells, other):
    how, match = OTHER_BINS[other]
    with pytest.raises(
        ValueError, match=f"binned differently from the model's training data: .*{match}"
    ):
        model.get_latent_representation(rebinned(new_cells, **how))


def test_other_learned_edges_are_refused_and_the_remedy_works(adata, new_cells, pretrain):
    cells = rebinned(adata, method="uniform")
    model = pretrain(cells, 1)
    with pytest.raises(
        ValueError,
        match=r"edges were learned from other cells.*pp.bin_expression\(adata, "
        r"edges=model.binning\)",
    ):
        model.get_latent_representation(rebinned(new_cells, method="uniform"))
    again = AnnData(new_cells.X, obs=new_cells.obs, var=new_cells.var)
    pp.bin_expression(again, edges=model.binning)
    assert np.isfinite(model.get_latent_representation(again)).all()


def test_bad_queries_are_refused(model, new_cells, tmp_path):
    bare = AnnData(new_cells.X, obs=new_cells.obs, var=new_cells.var)
    with pytest.raises(
        KeyError, match=r"'binned' is not in adata.layers; it has none. Bin the counts first"
    ):
        model.get_latent_representation(bare)
    bare.layers["binned"] = new_cells.layers["binned"]
    with pytest.raises(ValueError, match=r"write both with pp.bin_expression"):
        model.get_latent_representation(bare)
    twice = new_cells.copy()
    twice.var_names = ["G1", *new_cells.var_names[1:]]
    with pytest.raises(ValueError, match="var_names must be unique; found more than once: 'G1'"):
        model.get_latent_representation(twice)
    new_cells.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    with pytest.raises(ValueError, match="backed by"):
        model.get_latent_representation(backed)
    backed.file.close()
    for batch_size in (0, -1, 2.5):
        with pytest.raises(ValueError, match="batch_size must be a whole number from 1"):
            model.get_latent_representation(new_cells, batch_size=batch_size)


def test_cells_without_tokens(scbert, published, new_cells):
    tokens = new_cells.layers["binned"].tolil()
    tokens[[2, 5]] = 0
    new_cells.layers["binned"] = tokens.tocsr()
    with pytest.raises(
        ValueError, match=r"2 cells have no gene above bin 0 .*'cell2', 'cell5'.*remove them first"
    ):
        scbert.get_latent_representation(new_cells)
    assert np.isfinite(
        published.get_latent_representation(new_cells)
    ).all()  # its genes attend expressed or not


# ---- one cell at a time


@pytest.mark.parametrize("batch_size", [1, 7, 40])
def test_batch_size_does_not_matter(model, new_cells, answers, same, batch_size):
    same(answers(model, new_cells, batch_size), answers(model, new_cells))


def test_order_and_companions_do_not_matter(model, new_cells, answers, same):
    everything = answers(model, new_cells)
    rows = np.random.default_rng(0).permutation(40)
    same(answers(model, new_cells[rows].copy()), everything, rows)
    same(answers(model, new_cells[[17]].copy()), everything, [17])
    loud = poison(new_cells, np.arange(20))
    same({k: v[20:] for k, v in answers(model, loud).items()}, everything, slice(20, 40))


@pytest.mark.parametrize("form", [sparse.csc_matrix, sparse.csr_array, np.asarray])
def test_form_of_the_layer_does_not_matter(model, new_cells, answers, same, form):
    expected = answers(model, new_cells)
    tokens = new_cells.layers["binned"]
    new_cells.layers["binned"] = form(tokens.toarray())
    same(answers(model, new_cells), expected, atol=0)


def test_stored_zeros_do_not_matter_and_stay(model, new_cells, answers, same):
    expected = answers(model, new_cells)
    tokens = new_cells.layers["binned"].toarray()
    cells, genes = np.indices(tokens.shape).reshape(2, -1)
    new_cells.layers["binned"] = sparse.csr_matrix((tokens.ravel(), (cells, genes)), tokens.shape)
    same(answers(model, new_cells), expected, atol=0)
    assert new_cells.layers["binned"].nnz == tokens.size


@pytest.mark.filterwarnings(
    "ignore:5 of the model's 60 genes are not in adata:UserWarning"
)  # and so it is
def test_views_can_be_asked_about_and_stay_views(model, new_cells, answers, same):
    view = new_cells[10:30, 5:]
    same(answers(model, view), answers(model, new_cells[10:30, 5:].copy()), atol=0)
    assert view.is_view


def test_an_interrupted_question_leaves_pytorch_as_it_was(scbert, new_cells, monkeypatch):
    monkeypatch.setattr(type(scbert.module), "encode", lambda *args, **cells: 1 / 0)
    with pytest.raises(ZeroDivisionError) as kept:  # as a notebook keeps the last traceback
        scbert.get_latent_representation(new_cells)
    assert kept.tb is not None
    assert not torch.is_inference_mode_enabled()
    next(attention.Attention(scbert, new_cells, 4).of_cells())
    assert not torch.is_inference_mode_enabled()


# ---- training


def test_same_seed_same_weights(adata, pretrain):
    first = pretrain(adata.copy(), network={"dropout": 0.3}, rng=3)
    second = pretrain(adata.copy(), network={"dropout": 0.3}, rng=3)
    assert equal(state(first), state(second))
    assert history(first) == history(second)
    assert not equal(state(first), state(pretrain(adata.copy(), network={"dropout": 0.3}, rng=4)))
    assert not equal(
        state(first), state(pretrain(adata.copy(), network={"dropout": 0.3, "rng": 1}, rng=3))
    )


def test_the_users_random_numbers_are_left_alone(adata, pretrain, classify):
    np.random.seed(0)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    pretrain(adata.copy()).get_latent_representation()
    classify(adata.copy(), token_drop=0.3).predict()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert random.getstate() == before[2]


def test_training_does_not_depend_on_the_users_random_numbers(adata, pretrain):
    torch.manual_seed(1)
    first = pretrain(adata.copy())
    torch.manual_seed(2)
    assert equal(state(first), state(pretrain(adata.copy())))


def test_test_cells_are_never_seen(adata, pretrain):
    expected = state(pretrain(adata.copy(), 3))
    split = adata.obs["split"]
    assert equal(state(pretrain(poison(adata, np.flatnonzero(split == "test")), 3)), expected)
    assert not equal(
        state(pretrain(poison(adata, np.flatnonzero(split == "train")[:5]), 3)), expected
    )


def test_excluded_genes_are_never_seen(adata, pretrain):
    setup = {"exclude_genes": ["G1", "G59"]}
    expected = state(pretrain(adata.copy(), setup=setup))
    tokens = adata.layers["binned"].tolil()
    tokens[:, [1, 59]] = 5
    adata.layers["binned"] = tokens.tocsr()
    assert equal(state(pretrain(adata, setup=setup)), expected)


def test_history_names_what_was_learned_and_what_guessing_gets(adata, pretrain):
    model = pretrain(adata, 12, lr=1e-2, early_stopping=False)
    names = [
        f"{name}_{part}"
        for part in ("train", "validation")
        for name in ("masked_accuracy", "majority_accuracy")
    ]
    assert model.history.keys() == {"train_loss", "validation_loss", *names}
    assert all(len(frame) == 12 for frame in model.history.values())
    found = history(model)
    assert found["validation_loss"][-1] < 0.85 * found["validation_loss"][0]
    assert found["masked_accuracy_validation"][-1] > 0.3  # of five bins


@pytest.mark.parametrize("network", [{}, {"tokens": "all", "end_token": True}])
def test_what_guessing_gets_is_the_share_of_each_cells_commonest_bin(adata, pretrain, network):
    model = pretrain(
        adata, 1, mask_fraction=1.0, batch_size=7, network=network
    )  # every expressed gene is guessed
    cells = [row.data for row in adata[adata.obs["split"] == "val"].layers["binned"]]
    share = sum(np.bincount(row).max() for row in cells) / sum(map(len, cells))
    assert history(model)["majority_accuracy_validation"] == [pytest.approx(share, abs=1e-6)]


def test_the_same_genes_are_hidden_in_every_validation(adata, pretrain):
    model = pretrain(adata, 3, lr=0, weight_decay=0, network={"dropout": 0.0})
    assert np.ptp(history(model)["validation_loss"]) == 0
    assert np.ptp(history(model)["train_loss"]) > 0  # while training, others in every epoch


class Validated(L.Callback):
    """Keeps the weights of every epoch, and spoils them from one epoch on."""

    def __init__(self, spoil_from=100):
        self.weights, self.spoil_from = [], spoil_from

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch >= self.spoil_from:
            with torch.no_grad():
                pl_module.module.to_bins.bias[0] += 10

    def on_validation_end(self, trainer, pl_module):
        self.weights.append({k: v.clone() for k, v in pl_module.module.state_dict().items()})


@pytest.mark.parametrize(("early_stopping", "kept"), [(True, 2), (False, 5)])
def test_the_best_epoch_is_kept_where_it_may_stop_early(adata, pretrain, early_stopping, kept):
    """Else the last one: a run of a fixed length ends where its learning rate does."""
    seen = Validated(spoil_from=3)
    model = pretrain(adata, 6, callbacks=[seen], early_stopping=early_stopping)
    assert int(np.argmin(history(model)["validation_loss"])) == 2
    assert len(seen.weights) == 6
    assert [equal(state(model), weights) for weights in seen.weights] == [
        i == kept for i in range(6)
    ]


def test_early_stopping_and_the_users_callbacks(adata, pretrain):
    callbacks = [Validated(spoil_from=3)]
    model = pretrain(adata, 30, callbacks=callbacks, early_stopping_patience=2)
    losses = history(model)["validation_loss"]
    assert len(losses) == 5
    assert int(np.argmin(losses)) == 2
    assert [type(c) for c in callbacks] == [Validated]


def test_without_validation_cells_all_epochs_are_run(adata, pretrain):
    adata.obs["split"] = adata.obs["split"].replace("val", "train")
    model = pretrain(adata, 4, early_stopping_patience=1)
    assert model.history.keys() == {
        "train_loss",
        "masked_accuracy_train",
        "majority_accuracy_train",
    }
    assert len(model.history["train_loss"]) == 4


def test_without_a_split_a_tenth_of_the_cells_validates(adata, pretrain):
    model = pretrain(adata, 1, split_key=None)
    assert (len(model.train_indices), len(model.validation_indices), len(model.test_indices)) == (
        108,
        12,
        0,
    )
    assert sorted([*model.train_indices, *model.validation_indices]) == list(range(120))


def test_training_goes_on_where_it_ended(adata, pretrain):
    model = pretrain(adata, 2)
    before = state(model)
    model.train(3, split_key="split", accelerator="cpu", enable_progress_bar=False, rng=7)
    assert len(model.history["train_loss"]) == 5
    assert not equal(state(model), before)


def test_training_is_refused_what_it_cannot_use(adata):
    ScBERT.setup_anndata(adata)
    model = ScBERT(adata, gene_embedding="learned")
    with pytest.raises(KeyError, match=r"'part' is not in adata.obs.*pp.split_donors"):
        model.train(1, split_key="part")
    with pytest.raises(ValueError, match="batch_size must be a whole number from 2"):
        model.train(1, batch_size=1)
    with pytest.raises(ValueError, match="max_epochs must be a whole number from 1"):
        model.train(0)
    with pytest.raises(ValueError, match="mask_fraction must be a number from 0 to 1"):
        model.train(1, mask_fraction=15)
    adata.obs["split"] = adata.obs["split"].replace("train", "training")
    with pytest.raises(ValueError, match="found also 'training'"):
        model.train(1, split_key="split")
    adata.obs["split"] = "test"
    with pytest.raises(ValueError, match="has no cell in 'train'"):
        model.train(1, split_key="split")


# ---- attention


def queries_and_keys(model, adata: AnnData, cell: int):
    """The genes that attend in one cell, and in each layer the attention with its queries and keys
    (1, n, h, d).
    """
    row = adata[cell, list(model.genes)].layers["binned"].toarray()[0]
    genes = np.flatnonzero(row) if model.config.tokens == "expressed" else np.arange(len(row))
    tokens = torch.from_numpy(row[genes].astype(np.int64))[None]
    if model.config.end_token:
        genes, tokens = np.append(genes, len(row)), torch.nn.functional.pad(tokens, (0, 1))
    with torch.no_grad():
        x = model.module.embed(tokens, torch.from_numpy(genes)[None])
        for block in model.module.blocks:
            normed = block.attention_norm(x)
            yield (
                genes,
                block.attention.queries(normed),
                block.attention.keys(normed),
                block.attention.projection,
            )
            x = block(x)


def whole_matrices(model, adata: AnnData, cell: int) -> np.ndarray:
    """Mean over layers, heads and queries of the n × n attention matrices of one cell, per gene
    (and the end token).
    """
    received = np.zeros(model.config.n_positions)
    for genes, q, k, projection in queries_and_keys(model, adata, cell):
        matrix = naive_attention_matrix(
            q, k, Kernel(projection, model.config.stabilizer)
        )  # (1, h, n, n)
        received[genes] += matrix.mean((0, 1, 2)).numpy() / model.config.n_layers
    return received


def test_attention_is_the_column_mean_of_the_whole_matrix(model, new_cells):
    found = model.get_cell_attention(new_cells[:4].copy(), batch_size=3).toarray()
    for cell in range(4):
        expected = whole_matrices(model, new_cells, cell)[:60]
        np.testing.assert_allclose(found[cell], expected / expected.sum(), rtol=0, atol=1e-5)
    assert np.abs(found - found.mean(0)).max() > 1e-3  # cells differ, so agreeing is no accident


def test_attention_of_groups(model, new_cells):
    groups = pd.Series(["x", "y", None, "x", "y", "y"], dtype="category").cat.add_categories(
        ["nobody"]
    )
    found = model.get_gene_attention(groups, new_cells[:6].copy(), batch_size=4)
    assert list(found) == ["x", "y"]
    assert list(found.index) == list(model.genes)
    np.testing.assert_allclose(found.sum(), 1, rtol=1e-12)
    received = np.array([whole_matrices(model, new_cells, cell)[:60] for cell in range(6)])
    for name, cells in [("x", [0, 3]), ("y", [1, 4, 5])]:
        total = received[cells].sum(0)
        np.testing.assert_allclose(found[name], total / total.sum(), rtol=0, atol=1e-5)


def test_attention_per_cell_agrees_with_groups(scbert, new_cells):
    cells = scbert.get_cell_attention(new_cells)
    assert cells.nnz == new_cells.layers["binned"].nnz
    assert cells.dtype == np.float32
    np.testing.assert_allclose(cells.sum(1), 1, rtol=1e-6)
    groups = pd.Series(np.arange(40) % 3).astype(str)
    found = scbert.get_gene_attention(groups, new_cells)
    for name in "012":
        expected = cells.toarray()[groups == name].mean(
            0
        )  # without an end token every cell counts the same
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-6)


def test_attention_of_layers_and_heads_averages_to_the_mean(model, new_cells):
    groups = pd.Series(np.where(np.arange(40) < 20, "x", "y"))
    mean = model.get_gene_attention(groups, new_cells)
    layers = model.get_gene_attention(groups, new_cells, reduce="layers")
    heads = model.get_gene_attention(groups, new_cells, reduce="heads", batch_size=7)
    assert layers.columns.names == ["group", "layer"]
    assert heads.columns.names == ["group", "layer", "head"]
    assert heads.shape == (60, 2 * model.config.n_layers * model.config.n_heads)
    np.testing.assert_allclose(heads.sum(), 1, rtol=1e-9)
    if not model.config.end_token:  # with one, heads differ in what they give it
        by_layer = heads.T.groupby(["group", "layer"]).mean().T
        np.testing.assert_allclose(by_layer, layers, rtol=1e-5)
    assert np.abs(heads["x"].T.to_numpy() - heads["x"].mean(axis=1).to_numpy()).max() > 1e-4
    if model.config.n_layers == 1:
        np.testing.assert_allclose(layers.droplevel("layer", axis=1), mean, rtol=1e-6)


def test_attention_behind_the_residual_connection_is_another_one(published, new_cells):
    groups = pd.Series(["x"] * 40)
    used, original = (
        published.get_gene_attention(groups, new_cells, mode=mode) for mode in ("used", "original")
    )
    assert np.abs(used - original).to_numpy().max() > 1e-5
    with pytest.raises(ValueError, match="mode must be one of 'used', 'original'"):
        published.get_gene_attention(groups, new_cells, mode="returned")
    with pytest.raises(ValueError, match="reduce must be one of 'mean', 'layers', 'heads'"):
        published.get_gene_attention(groups, new_cells, reduce="sum")


def test_attention_of_chosen_genes(model, new_cells):
    some = new_cells[:5].copy()
    chosen = ["G3", "G12"]
    total = np.zeros(model.config.n_positions)
    for cell in range(5):
        for genes, q, k, projection in queries_and_keys(model, some, cell):
            asks = np.isin(genes, model.genes.get_indexer(chosen))
            if asks.any():
                matrix = naive_attention_matrix(q, k, Kernel(projection, model.config.stabilizer))
                total[genes] += matrix[0][:, asks].mean((0, 1)).numpy()
    expected = total[:60] / total[:60].sum()
    found = model.attention_to(chosen, pd.Series(["x"] * 5), some, batch_size=2)
    np.testing.assert_allclose(found["x"], expected, rtol=0, atol=1e-5)
    assert (
        np.abs(found["x"] - model.get_gene_attention(pd.Series(["x"] * 5), some)["x"]).max() > 1e-4
    )
    with pytest.raises(KeyError, match="'G99' is not among its 60"):
        model.attention_to(["G1", "G99"], pd.Series(["x"] * 5), some)
    with pytest.raises(KeyError, match="none is not among"):
        model.attention_to([], pd.Series(["x"] * 5), some)


def test_groups_of_other_cells_are_refused(scbert, new_cells):
    with pytest.raises(
        ValueError, match="one value per cell, in the order of the cells: 40, found 120"
    ):
        scbert.get_gene_attention(scbert.adata.obs["label"], new_cells)
    with pytest.raises(ValueError, match="120, found 40"):
        scbert.get_gene_attention(pd.Series(["x"] * 40))
    with pytest.raises(ValueError, match="groups is missing for all 40 cells"):
        scbert.get_gene_attention(pd.Series([None] * 40), new_cells)


def test_attention_floor_is_the_constant_share_of_the_features(model, new_cells):
    def floor(cell: int) -> list[float]:
        layers = list(queries_and_keys(model, new_cells, cell))
        features = [naive_features(k, Kernel(p, model.config.stabilizer)) for _, _, k, p in layers]
        return [favor.EPSILON / phi.mean().item() for phi in features]

    found = model.get_attention_floor(new_cells)
    assert found.shape == (model.config.n_layers,)
    np.testing.assert_allclose(
        found, np.mean([floor(cell) for cell in range(40)], axis=0), rtol=1e-4
    )
    few = model.get_attention_floor(new_cells, n_cells=3)
    np.testing.assert_allclose(
        few, np.mean([floor(cell) for cell in (0, 19, 39)], axis=0), rtol=1e-4
    )
