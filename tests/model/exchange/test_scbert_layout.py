"""Checkpoints of scBERT: in, out, and what is said when they do not fit."""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from safetensors.torch import save_file
from scipy import sparse
from scipy.special import softmax

from scbert_cll import pp
from scbert_cll.model import ScBERT, ScBERTClassifier
from scbert_cll.vocab import GeneVocab

GENES = [f"G{i}" for i in range(60)]
CLASSES = ["a", "b"]
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}
REFERENCES = {"small_nog2v": 64, "small_g2v": 64, "small_finetune_head": 64, "true_arch_l129": 128}
BLOCK = [
    "0.norm.weight",
    "0.norm.bias",
    "0.fn.fast_attention.projection_matrix",
    "0.fn.to_q.weight",
    "0.fn.to_k.weight",
    "0.fn.to_v.weight",
    "0.fn.to_out.weight",
    "0.fn.to_out.bias",
    "1.norm.weight",
    "1.norm.bias",
    "1.fn.fn.w1.weight",
    "1.fn.fn.w1.bias",
    "1.fn.fn.w2.weight",
    "1.fn.fn.w2.bias",
]
HEADS = {
    "pretrained": ["to_out.weight", "to_out.bias"],
    "finetuned": [
        f"to_out.{layer}.{part}"
        for layer in ("conv1", "fc1", "fc2", "fc3")
        for part in ("weight", "bias")
    ],
}


def cells_of(tokens: np.ndarray, genes: list[str], **obs: Any) -> AnnData:
    """Cells with ready tokens, binned as scBERT does."""
    adata = AnnData(sparse.csr_matrix(tokens.astype(np.float32)), var=pd.DataFrame(index=genes))
    adata.obs_names = [f"cell{i}" for i in range(len(tokens))]
    adata.obs = adata.obs.assign(**obs)
    pp.bin_expression(adata)
    adata.layers["binned"] = sparse.csr_matrix(tokens.astype(np.uint8))
    return adata


def load(kind: str, path: Path, **choices: Any) -> ScBERT | ScBERTClassifier:
    choices = {"vocab": GENES, "accelerator": "cpu"} | choices
    if kind == "pretrained":
        return ScBERT.from_scbert_checkpoint(path, **choices)
    return ScBERTClassifier.from_scbert_checkpoint(
        path, **{"classes": CLASSES, "labels_key": "label"} | choices
    )


def content(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return content(path)["model_state_dict"]


def state(model: Any) -> dict[str, torch.Tensor]:
    return model.module.state_dict()


def assert_same_tensors(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """The same names in the same order, types and bits."""
    assert list(found) == list(expected)
    assert {name: t.dtype for name, t in found.items()} == {
        name: t.dtype for name, t in expected.items()
    }
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []


@pytest.fixture(scope="module")
def binned() -> AnnData:
    """Cells of both classes, binned as scBERT does."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 6, (24, len(GENES)))
    return cells_of(tokens, GENES, label=pd.Categorical(np.resize(CLASSES, 24)))


@pytest.fixture(scope="module")
def make(binned: AnnData, published_network: dict[str, Any]) -> Callable[..., Any]:
    """Make a network of ours in the published form, in small: `make(kind, **choices)`; its weights
    are random.
    """

    def build(kind: str, **choices: Any) -> ScBERT | ScBERTClassifier:
        network = published_network | {"stabilizer": "cell", "rng": 7} | choices
        adata = binned.copy()
        if kind == "pretrained":
            ScBERT.setup_anndata(adata)
            return ScBERT(adata, **network)
        ScBERTClassifier.setup_anndata(adata, labels_key="label")
        model = ScBERTClassifier(adata, **network)
        model.is_trained_ = True
        return model

    return build


@pytest.fixture(scope="module", params=["pretrained", "finetuned"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def ours(make, kind) -> Any:
    """A network of each kind; not to be changed."""
    return make(kind)


@pytest.fixture(scope="module")
def path(ours, tmp_path_factory) -> Path:
    """Its checkpoint."""
    file = tmp_path_factory.mktemp("checkpoint") / "scbert.pth"
    ours.to_scbert_checkpoint(file)
    return file


@pytest.fixture(scope="module")
def pretrained(make, tmp_path_factory) -> Path:
    """The checkpoint of a pretrained network."""
    file = tmp_path_factory.mktemp("pretrained") / "scbert.pth"
    make("pretrained").to_scbert_checkpoint(file)
    return file


@pytest.fixture(scope="module")
def finetuned(make, tmp_path_factory) -> Path:
    """The checkpoint of a fine-tuned network."""
    file = tmp_path_factory.mktemp("finetuned") / "scbert.pth"
    make("finetuned").to_scbert_checkpoint(file)
    return file


@pytest.fixture
def changed(tmp_path) -> Callable[..., Path]:
    """Write a checkpoint again with other tensors, None taking one out: `changed(path, {name:
    tensor})`.
    """

    def write(source: Path, changes: dict[str, Any]) -> Path:
        found = {
            name: tensor
            for name, tensor in (tensors(source) | changes).items()
            if tensor is not None
        }
        torch.save(content(source) | {"model_state_dict": found}, tmp_path / "changed.pth")
        return tmp_path / "changed.pth"

    return write


# ---- there and back


def test_layout_of_the_file(path, kind):
    found = content(path)
    assert (found["epoch"], found["losses"]) == (0, 0.0)
    assert found.keys() == {"epoch", "model_state_dict", "losses", "versions"}
    assert found["versions"].keys() == {"scbert_cll", "torch"}
    names = ["token_emb.weight", "pos_emb.emb.weight", "performer.calls_since_last_redraw"]
    names += [f"performer.net.layers.{i}.{name}" for i in range(2) for name in BLOCK]
    assert list(found["model_state_dict"]) == [*names, "norm.weight", "norm.bias", *HEADS[kind]]
    counter = found["model_state_dict"]["performer.calls_since_last_redraw"]
    assert (counter.dtype, counter.shape, counter.item()) == (torch.int64, (), 0)
    others = {name: t.dtype for name, t in found["model_state_dict"].items() if t is not counter}
    assert others.pop("pos_emb.emb.weight") == torch.float64
    assert set(others.values()) == {torch.float32}


def test_our_weights_come_back_bit_by_bit(ours, path, kind):
    found, expected = state(load(kind, path)), state(ours)
    assert found.keys() == expected.keys()
    lost = (
        {"to_bins.weight", "to_bins.bias"} if kind == "finetuned" else set()
    )  # scBERT drops them, too
    assert {name for name in found if not torch.equal(found[name], expected[name])} == lost


def test_a_checkpoint_comes_back_bit_by_bit(path, kind, tmp_path):
    load(kind, path).to_scbert_checkpoint(tmp_path / "new" / "again.pth")
    assert_same_tensors(tensors(tmp_path / "new" / "again.pth"), tensors(path))


def test_a_file_is_no_larger_than_its_tensors(path):
    """A slice of a stacked matrix must not take the whole matrix along."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors(path).values())
    assert path.stat().st_size < size + 700 * len(tensors(path))


def test_same_answers_with_genes_by_name(ours, path, kind, binned, answers, same):
    loaded = load(kind, path)
    order = np.random.default_rng(1).permutation(len(GENES))
    same(answers(loaded, binned[:, order].copy()), answers(ours, binned))


def test_the_loaded_model_is_scberts(path, kind):
    loaded = load(kind, path)
    config = loaded.config
    assert (config.n_genes, config.n_bins, config.n_layers, config.n_heads, config.dim_head) == (
        60,
        5,
        2,
        2,
        8,
    )
    assert (config.tokens, config.stabilizer, config.attention, config.dropout) == (
        "all",
        "cell",
        "favor",
        0.0,
    )
    assert config.end_token
    assert config.head == "scbert"
    assert not loaded.module.gene_embedding.weight.requires_grad
    assert loaded.is_trained
    assert list(loaded.genes) == GENES
    assert loaded.layer == "binned"
    assert loaded.adata is None


def test_binning_is_that_of_bin_expression(path, kind, binned):
    expected = binned.uns["binned"]
    loaded = load(kind, path)
    assert loaded.binning["params"] == expected["params"]
    np.testing.assert_array_equal(loaded.binning["edges"], expected["edges"])


@pytest.mark.parametrize("form", ["GeneVocab", "text file", "names", "AnnData"])
def test_forms_of_a_vocabulary(pretrained, form, tmp_path, binned):
    GeneVocab(GENES).save(tmp_path / "genes.txt")
    forms = {
        "GeneVocab": GeneVocab(GENES),
        "text file": tmp_path / "genes.txt",
        "names": tuple(GENES),
        "AnnData": binned,
    }
    assert list(load("pretrained", pretrained, vocab=forms[form]).genes) == GENES


def test_choices_of_use(pretrained, binned):
    model = load(
        "pretrained",
        pretrained,
        dropout=0.2,
        tokens="expressed",
        stabilizer="head",
        train_gene_embedding=True,
    )
    assert (model.config.dropout, model.config.tokens, model.config.stabilizer) == (
        0.2,
        "expressed",
        "head",
    )
    assert model.module.gene_embedding.weight.requires_grad
    assert np.isfinite(model.get_latent_representation(binned)).all()


def test_another_layer(pretrained, binned):
    other = binned.copy()
    other.layers["tokens"], other.uns["tokens"] = (
        other.layers.pop("binned"),
        other.uns.pop("binned"),
    )
    model = load("pretrained", pretrained, layer="tokens", adata=other)
    assert model.adata is other
    np.testing.assert_array_equal(
        model.get_latent_representation(), model.get_latent_representation(other)
    )


@pytest.mark.parametrize("embedding", ["learned", "sinusoidal", "none"])
def test_every_gene_embedding_has_its_place(make, binned, embedding, tmp_path):
    model = make("pretrained", gene_embedding=embedding)
    model.to_scbert_checkpoint(tmp_path / "scbert.pth")
    assert ("pos_emb.emb.weight" in tensors(tmp_path / "scbert.pth")) == (embedding != "none")
    loaded = load("pretrained", tmp_path / "scbert.pth")
    expected = model.get_latent_representation(binned)
    np.testing.assert_allclose(
        loaded.get_latent_representation(binned), expected, rtol=0, atol=1e-6
    )


def test_exact_attention_goes_in_and_out(make, tmp_path):
    with pytest.warns(UserWarning, match="attention='exact'"):
        make("pretrained", attention="exact").to_scbert_checkpoint(tmp_path / "scbert.pth")
    assert (
        load("pretrained", tmp_path / "scbert.pth", attention="exact").config.attention == "exact"
    )


def test_a_bare_state_dict_without_the_counter_is_read(ours, path, kind, tmp_path):
    found = tensors(path)
    del found["performer.calls_since_last_redraw"]
    torch.save(found, tmp_path / "bare.pth")
    assert torch.equal(
        state(load(kind, tmp_path / "bare.pth"))["norm.weight"], state(ours)["norm.weight"]
    )


# ---- what a loaded model can do


def test_our_folder_takes_over(path, kind, binned, tmp_path, answers, same):
    loaded = load(kind, path)
    loaded.save(tmp_path / "model")
    again = type(loaded).load(tmp_path / "model", binned, accelerator="cpu")
    assert again.is_trained
    assert again.config == loaded.config
    same(answers(again), answers(loaded, binned), atol=0)


@pytest.mark.parametrize("head", ["pool", "scbert"])
def test_a_classifier_starts_from_it(pretrained, binned, head):
    model = ScBERTClassifier.from_pretrained(
        load("pretrained", pretrained), binned, labels_key="label", head=head
    )
    before = state(model)["blocks.1.attention.qkv.weight"].clone()
    assert torch.equal(before[:16], tensors(pretrained)["performer.net.layers.1.0.fn.to_q.weight"])
    model.train(1, batch_size=8, freeze="scbert", donor_key=None, **QUIET)
    assert list(model.predict()) != []
    assert torch.equal(state(model)["blocks.1.attention.qkv.weight"], before)
    assert not torch.equal(
        state(model)["blocks.0.attention.qkv.weight"],
        state(load("pretrained", pretrained))["blocks.0.attention.qkv.weight"],
    )


def test_a_loaded_classifier_predicts_its_classes(finetuned, binned):
    model = load("finetuned", finetuned, classes=["first", "second"])
    with torch.inference_mode():
        tokens = torch.from_numpy(
            np.pad(binned.layers["binned"].toarray(), ((0, 0), (0, 1)))
        ).long()
        expected = model.module(tokens).softmax(-1).numpy()
    found = model.predict(binned, soft=True)
    assert list(found) == ["first", "second"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_training_goes_on(path, kind, binned):
    loaded = load(kind, path, adata=binned.copy())
    before = state(loaded)["norm.weight"].clone()
    donors = {"donor_key": None} if kind == "finetuned" else {}  # these cells have none
    loaded.train(1, batch_size=8, **donors, **QUIET)
    loaded.train(2, batch_size=8, **donors, **QUIET)
    assert not torch.equal(state(loaded)["norm.weight"], before)
    assert len(loaded.history["validation_loss"]) == 3


def test_a_training_that_fails_leaves_it_trained(path, kind, binned):
    loaded = load(kind, path, adata=binned.copy())
    with pytest.raises(ValueError, match="nonsense"):
        loaded.train(1, batch_size=8, accelerator="nonsense")
    assert loaded.is_trained


# ---- gene vectors


def stored_vectors(path: Path) -> pd.DataFrame:
    """The vectors of the checkpoint's genes, by name, in another order."""
    table = pd.DataFrame(tensors(path)["pos_emb.emb.weight"][:-1].numpy(), index=GENES)
    return table.sample(frac=1, random_state=0)


def test_with_vectors_the_order_of_the_vocabulary_is_free(pretrained, binned):
    loaded = load("pretrained", pretrained, vocab=GENES[::-1], gene2vec=stored_vectors(pretrained))
    assert list(loaded.genes) == GENES[::-1]
    expected = load("pretrained", pretrained).get_latent_representation(binned)
    np.testing.assert_allclose(
        loaded.get_latent_representation(binned), expected, rtol=0, atol=1e-6
    )


def test_with_vectors_a_pretrained_network_serves_other_genes(pretrained, tmp_path):
    table = pd.DataFrame(
        np.random.default_rng(0).normal(size=(90, 16)), index=[f"NEW{i}" for i in range(90)]
    )
    loaded = load("pretrained", pretrained, vocab=table.index[10:85], gene2vec=table)
    embedding = state(loaded)["gene_embedding.weight"].numpy()
    np.testing.assert_array_equal(embedding[:-1], table[10:85].to_numpy(np.float32))
    np.testing.assert_array_equal(embedding[-1], tensors(pretrained)["pos_emb.emb.weight"][-1])
    loaded.to_scbert_checkpoint(tmp_path / "other.pth")
    assert list(load("pretrained", tmp_path / "other.pth", vocab=table.index[10:85]).genes) == list(
        table.index[10:85]
    )


def test_with_vectors_a_finetuned_network_keeps_its_genes(finetuned):
    vectors = stored_vectors(finetuned) * 2
    loaded = load("finetuned", finetuned, gene2vec=vectors)
    expected = 2 * tensors(finetuned)["pos_emb.emb.weight"][:-1]
    assert torch.equal(state(loaded)["gene_embedding.weight"][:-1], expected.float())
    with pytest.raises(ValueError, match="vocab has 50 genes, and the checkpoint positions for 60"):
        load("finetuned", finetuned, vocab=GENES[:50], gene2vec=vectors)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda t: t.drop(index=["G3", "G7"]),
            "2 of the 60 genes of vocab have no vector in gene2vec: 'G3', 'G7'",
        ),
        (
            lambda t: t.iloc[:, :10],
            "gene2vec has 10 dimensions, and the checkpoint's network is 16 wide",
        ),
        (
            lambda t: t.mask(np.repeat(t.index.to_numpy()[:, None] == "G5", 16, 1)),
            "non-finite values for 1 genes: 'G5'",
        ),
        (
            lambda t: pd.concat([t, t.loc[["G9"]]]),
            "gene names of gene2vec must be unique; found more than once: 'G9'",
        ),
    ],
)
def test_gene_vectors_that_do_not_fit(pretrained, change, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        load("pretrained", pretrained, gene2vec=change(stored_vectors(pretrained)))


def test_gene_vectors_are_a_table(pretrained):
    with pytest.raises(
        TypeError, match=r"gene2vec must be a DataFrame genes x dimensions, .* found ndarray"
    ):
        load("pretrained", pretrained, gene2vec=np.zeros((60, 16)))


def test_a_network_without_gene_vectors_serves_any_genes(make, tmp_path):
    make("pretrained", gene_embedding="none").to_scbert_checkpoint(tmp_path / "scbert.pth")
    assert load("pretrained", tmp_path / "scbert.pth", vocab=GENES[:7]).config.n_genes == 7
    with pytest.raises(ValueError, match="does without gene vectors"):
        load(
            "pretrained",
            tmp_path / "scbert.pth",
            gene2vec=pd.DataFrame(np.zeros((60, 16)), index=GENES),
        )


# ---- what does not fit


def test_everything_is_said_at_once(finetuned, changed):
    wrong, order = "performer.net.layers.1.0.fn.to_k.weight", "in the order they were trained in."
    file = changed(
        finetuned,
        {
            "norm.bias": None,
            "to_out.fc2.weight": None,
            "blocks.extra": torch.zeros(3),
            wrong: torch.zeros(16, 15),
            "to_out.fc3.bias": torch.zeros(3),
        },
    )
    with pytest.raises(ValueError, match=r"changed\.pth does not fit:\n") as error:
        load(
            "finetuned",
            file,
            vocab=GENES[:50],
            classes=["x", "y", "z"],
            gene2vec=pd.DataFrame(np.zeros((50, 2)), GENES[:50]),
        )
    assert str(error.value).splitlines()[1:] == [
        "- missing (2): 'norm.bias', 'to_out.fc2.weight'.",
        "- unexpected (1): 'blocks.extra'.",
        (
            f"- of another shape (2): '{wrong}: expected (16, 16), found (16, 15)', "
            f"'to_out.fc3.bias: expected (2), found (3)'."
        ),
        "- vocab has 50 genes, and the checkpoint positions for 60 (and the end token): name "
        "all of them, " + order,
        "- classes names 3 ('x', 'y', 'z'), and the checkpoint has 2: name all of them, " + order,
        "- gene2vec has 2 dimensions, and the checkpoint's network is 16 wide.",
    ]


def test_long_lists_are_cut(pretrained, changed):
    file = changed(pretrained, {f"performer.net.layers.1.{name}": None for name in BLOCK[:-1]})
    with pytest.raises(
        ValueError, match=r"missing \(13\): 'performer.net.layers.1.0.norm.weight', .* and 5 more"
    ):
        load("pretrained", file)


@pytest.mark.parametrize(
    "odd", ["token_emb.weight", "performer.net.layers.0.0.norm.weight", "norm.weight"]
)
def test_the_odd_one_out_is_named(pretrained, changed, odd):
    wide = {name: tensor for name, tensor in tensors(pretrained).items() if name == odd}
    file = changed(pretrained, {odd: torch.cat([wide[odd], wide[odd][..., :1]], dim=-1)})
    with pytest.raises(ValueError, match=r"of another shape \(1\)") as error:
        load("pretrained", file)
    assert f"'{odd}: expected" in str(error.value)


def test_wrong_number_of_genes_is_said_with_the_way_out(pretrained):
    with pytest.raises(
        ValueError,
        match=r"vocab has 59 genes, .* positions for 60 .*; or give gene2vec= for other genes",
    ):
        load("pretrained", pretrained, vocab=GENES[:-1])


def test_a_gene_named_twice(pretrained):
    with pytest.raises(ValueError, match="vocabulary must be unique; found more than once: 'G0'"):
        load("pretrained", pretrained, vocab=[*GENES[:-1], "G0"])


def test_classes_that_do_not_fit(finetuned):
    with pytest.raises(
        ValueError, match=r"classes names 3 \('a', 'b', 'c'\), and the checkpoint has 2"
    ):
        load("finetuned", finetuned, classes=["a", "b", "c"])
    with pytest.raises(ValueError, match="classes must be unique; found more than once: 'a'"):
        load("finetuned", finetuned, classes=["a", "a"])


def test_each_model_points_to_the_other(pretrained, finetuned):
    with pytest.raises(
        ValueError, match=r"fine-tuned to name classes; .* ScBERTClassifier\.from_scbert_checkpoint"
    ):
        load("pretrained", finetuned)
    with pytest.raises(
        ValueError,
        match=r"pretrained network, without classes; .* Read it with ScBERT\.from_scbert_check",
    ):
        load("finetuned", pretrained)


def test_cells_binned_otherwise(pretrained, binned):
    other = binned.copy()
    pp.bin_expression(other, n_bins=7)
    with pytest.raises(ValueError, match="n_bins is 7, the model has 5"):
        load("pretrained", pretrained, adata=other)


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (
            {
                "token_emb.weight": torch.zeros(2, 16),
                "to_out.weight": torch.zeros(2, 16),
                "to_out.bias": torch.zeros(2),
            },
            "2 rows, expected at least 3",
        ),
        ({"norm.weight": torch.full((16,), torch.nan)}, "non-finite values in 'norm.weight'"),
        (
            {
                f"performer.net.layers.{i}.0.fn.fast_attention.projection_matrix": torch.ones(16, 5)
                for i in (0, 1)
            },
            r"inner \(16\) is not a multiple of dim_head \(5\)",
        ),
    ],
    ids=["bins", "nan", "heads"],
)
def test_tensors_that_make_no_network(pretrained, changed, tensor, said):
    with pytest.raises(ValueError, match=said):
        load("pretrained", changed(pretrained, tensor))


@pytest.mark.parametrize("choice", ["n_hidden", "end_token", "head", "nonsense"])
def test_choices_that_shape_the_weights(pretrained, choice):
    with pytest.raises(
        TypeError,
        match=f"'{choice}' would not fit the checkpoint's weights; you may choose 'attention'",
    ):
        load("pretrained", pretrained, **{choice: 3})


# ---- files that are something else


class Foreign:
    """A class of one's own."""


class Runs:
    """A pickle that would make a folder when it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_a_file_that_would_run_code_is_refused(pretrained, tmp_path):
    whole, victim = content(pretrained), tmp_path / "made"
    torch.save(whole | {"args": Foreign()}, tmp_path / "foreign.pth")
    with pytest.raises(
        ValueError,
        match=r"holds \S*Foreign, no weights alone: .* code that it names would have to be run",
    ):
        load("pretrained", tmp_path / "foreign.pth")
    torch.save(whole | {"args": Runs(victim)}, tmp_path / "runs.pth")
    with pytest.raises(ValueError, match=r"holds \S*mkdir, no weights alone"):
        load("pretrained", tmp_path / "runs.pth")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps({"model_state_dict": Runs(victim)}))
    with pytest.raises(ValueError, match=r"no weights alone: .* so it was refused"):
        load("pretrained", tmp_path / "pickle.pth")
    assert not victim.exists()


def test_files_that_are_no_checkpoint(pretrained, tmp_path):
    (tmp_path / "page.pth").write_text("<html>not found</html>")
    (tmp_path / "empty.pth").touch()
    whole = pretrained.read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    for name in ("page", "empty", "cut"):
        with pytest.raises(ValueError, match=f"{name}.pth is not a checkpoint, or it is damaged"):
            load("pretrained", tmp_path / f"{name}.pth")


def test_checkpoints_of_something_else(tmp_path):
    for what, said in [
        (torch.zeros(3), "holds a Tensor; a checkpoint of scBERT holds a dict"),
        (
            {"model_state_dict": {}},
            "holds a dict; a checkpoint of scBERT holds a dict with tensors by name",
        ),
        (
            {"epoch": 3, "lr": 0.1},
            "expected a tensor for every name, found something else for 'epoch', 'lr'",
        ),
        ({"weight": torch.zeros(3)}, "none of its tensors is scBERT's: .* found 'weight'"),
    ]:
        torch.save(what, tmp_path / "other.pth")
        with pytest.raises(ValueError, match=said):
            load("pretrained", tmp_path / "other.pth")
    save_file({"weight": torch.zeros(3)}, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=r"weights\.safetensors"):
        load("pretrained", tmp_path / "weights.safetensors")


def test_paths_that_are_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no checkpoint"):
        load("pretrained", tmp_path / "absent.pth")
    with pytest.raises(ValueError, match=r"is a folder, .* is read with \.load\(folder\)"):
        load("pretrained", tmp_path)


# ---- writing


def test_a_file_is_not_overwritten_unless_told_to(ours, tmp_path):
    file = tmp_path / "scbert.pth"
    file.write_text("mine")
    with pytest.raises(FileExistsError, match="pass overwrite=True"):
        ours.to_scbert_checkpoint(file)
    assert file.read_text() == "mine"
    ours.to_scbert_checkpoint(file, overwrite=True)
    assert len(tensors(file)) > 30
    with pytest.raises(FileExistsError, match="is a folder; name a file"):
        ours.to_scbert_checkpoint(tmp_path, overwrite=True)


def test_a_broken_write_leaves_the_old_file(ours, tmp_path, monkeypatch):
    file = tmp_path / "scbert.pth"
    file.write_text("mine")

    def full(content: Any, target: Any) -> None:
        target.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        ours.to_scbert_checkpoint(file, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["scbert.pth"]
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    ("kind", "choices", "said"),
    [
        (
            "pretrained",
            {"out_bias": False, "end_token": False},
            "\"out_bias=False\", 'end_token=False'".replace('"', "'"),
        ),
        ("finetuned", {"head": "pool"}, "\"head='pool'\""),
    ],
)
def test_networks_the_layout_cannot_hold(make, kind, choices, said, tmp_path):
    with pytest.raises(
        ValueError, match=f'cannot hold this network: {said}. Train one with .* preset="scbert"'
    ):
        make(kind, **choices).to_scbert_checkpoint(tmp_path / "scbert.pth")
    assert not list(tmp_path.iterdir())


def test_a_pretrained_network_has_no_head_to_refuse(make, tmp_path):
    make("pretrained", head="pool").to_scbert_checkpoint(tmp_path / "scbert.pth")
    assert load("pretrained", tmp_path / "scbert.pth").config.n_layers == 2


def test_what_the_file_cannot_say_is_said(make, scbert, tmp_path):
    with pytest.warns(UserWarning, match="stabilizer='head' .scBERT: 'cell'.") as caught:
        make("pretrained", stabilizer="head", tokens="expressed").to_scbert_checkpoint(
            tmp_path / "scbert.pth"
        )
    (told,) = [w for w in caught if w.category is UserWarning]
    assert "tokens='expressed'" in str(told.message)
    assert told.filename == __file__
    other = make("pretrained")
    other.binning = scbert.binning  # cut at target_sum=300
    with pytest.warns(UserWarning, match="binning's target_sum=300.0 .scBERT: 10000.0."):
        other.to_scbert_checkpoint(tmp_path / "scbert.pth", overwrite=True)


# ---- nearly uniform attention


@pytest.fixture
def uniform(pretrained, changed) -> Path:
    """A checkpoint whose keys are so long that their features drown in the floor."""
    keys = {name: tensor * 60 for name, tensor in tensors(pretrained).items() if "to_k" in name}
    return changed(pretrained, keys)


def test_uniform_attention_is_told(uniform, binned):
    with pytest.warns(
        UserWarning, match="nearly uniform in a simulated cell that expresses 9% of the genes: "
    ) as caught:
        load("pretrained", uniform)
    (told,) = [w for w in caught if w.category is UserWarning]
    assert told.filename == __file__
    with pytest.warns(
        UserWarning, match=r"nearly uniform in these cells: in every layer at least \d+% of"
    ):
        model = load("pretrained", uniform, adata=binned)
    assert model.get_attention_floor().min() > 0.9


def test_one_layer_that_attends_is_enough(pretrained, changed, binned):
    name = "performer.net.layers.0.0.fn.to_k.weight"
    model = load(
        "pretrained", changed(pretrained, {name: 60 * tensors(pretrained)[name]})
    )  # no warning
    floor = model.get_attention_floor(binned)
    assert floor[0] > 0.9 > floor[1]


# ---- the original's files


@pytest.fixture(params=REFERENCES)
def original(request, shared_file) -> tuple[str, Path, Any, np.lib.npyio.NpzFile]:
    """Kind, path, loaded model and expected numbers of a checkpoint that scBERT wrote."""
    path = shared_file(f"reference/scbert/{request.param}.pth")
    kind = "finetuned" if "finetune" in request.param else "pretrained"
    genes = [f"G{i}" for i in range(REFERENCES[request.param])]
    model = load(
        kind, path, vocab=genes, **({"classes": list("abcde")} if kind == "finetuned" else {})
    )
    return kind, path, model, np.load(path.with_suffix(".npz"))


@pytest.mark.realdata
def test_the_originals_logits(original):
    _, _, model, expected = original
    with torch.inference_mode():
        found = model.module(torch.from_numpy(expected["tokens"]))
    np.testing.assert_allclose(found, expected["logits_single"], rtol=0, atol=5e-6)


@pytest.mark.realdata
def test_the_originals_embeddings_and_probabilities(original):
    kind, _, model, expected = original
    adata = cells_of(expected["tokens"][:, :-1], list(model.genes))
    latent = expected["encodings_single"].mean(1)
    np.testing.assert_allclose(model.get_latent_representation(adata), latent, rtol=0, atol=5e-6)
    if kind == "finetuned":
        probabilities = softmax(expected["logits_single"], axis=1)
        np.testing.assert_allclose(
            model.predict(adata, soft=True), probabilities, rtol=0, atol=5e-6
        )


@pytest.mark.realdata
def test_the_originals_file_comes_back_bit_by_bit(original, tmp_path):
    _, path, model, _ = original
    model.to_scbert_checkpoint(tmp_path / "again.pth")
    assert_same_tensors(tensors(tmp_path / "again.pth"), tensors(path))
    model.save(tmp_path / "model")
    type(model).load(tmp_path / "model", accelerator="cpu").to_scbert_checkpoint(
        tmp_path / "thrice.pth"
    )
    assert_same_tensors(tensors(tmp_path / "thrice.pth"), tensors(path))


@pytest.mark.realdata
def test_the_originals_network_serves_other_genes(original):
    kind, path, model, expected = original
    if kind == "finetuned" or model.module.gene_embedding is None:
        return
    vectors = pd.DataFrame(state(model)["gene_embedding.weight"][:-1].numpy(), index=model.genes)
    other = load(kind, path, vocab=list(model.genes[::-1]), gene2vec=vectors)
    adata = cells_of(expected["tokens"][:, :-1], list(model.genes))
    found, before = (m.get_latent_representation(adata) for m in (other, model))
    np.testing.assert_allclose(found, before, rtol=0, atol=5e-6)
