"""What users named is published as text: no name becomes Markdown, HTML, YAML or code, none gives a
person or a machine away, a refusal leaves nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from anndata import AnnData
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from scbert_cll import pp
from scbert_cll.model import ScBERTClassifier

NAMES = {
    "html": "<img src=x onerror=alert(1)>",
    "script": "</code><script>alert(1)</script>",
    "link": "[free](http://example.org)",
    "bare link": "see http://example.org/x and www.example.org",
    "picture": "![x](http://example.org/x.png)",
    "heading": "x\n\n# Approved for clinical use\n\n",
    "front matter": "x\n---\nlicense: mit\n---\n",
    "yaml": "x: y\n- &a z #",
    "backticks": "a`b``c` <b>",
    "only backticks": "``",
    "table": "a|b|c\n|---|---|\n",
    "carriage return": "a\r# b",
    "line separator": "a\u2028# b\x85c\x0bd",
    "emphasis": "**very** _good_ ~~bad~~",
    "reference": "[a]: http://example.org",
    "entity": "&lt;b&gt; &#60;i&#62;",
    "fence": "```\n# x\n```",
    "quotes": "\"'\\",
    "escape": "\x1b[31mred",
    "right to left": "a\u202eb",
    "braces": "{labels_key} {0} {",
}
PRIVATE = {
    "home": "~/counts",
    "another's home": "~me/counts",
    "file": "file:///home/me/x",
    "file in a text": "from file:///home/me/x",
    "path": "/home/me/x.h5ad",
    "path in a text": "counts of /home/me/x",
    "windows": r"C:\Users\me",
    "windows in a text": r"counts in D:\data\me",
    "share": r"\\server\share\me",
    "variable": "$HOME/x",
    "variable of windows": r"%USERPROFILE%\x",
    "mail": "anna@example.org",
    "mail in a text": "ask anna.b+c@lab.example.org",
}
PLAIN = ["CD49d+/CD5-", "a~b", "50 % (low)", "T: naïve", "A/B", "B@2", "CD4+ $x", "-/-", "c: d"]


def model_of(label: str, classes: list[str], genes: list[str]) -> ScBERTClassifier:
    adata = AnnData(np.ones((4, len(genes)), np.float32), var=pd.DataFrame(index=genes))
    adata.obs["kind"] = pd.Categorical(classes * 2)
    pp.bin_expression(adata)
    ScBERTClassifier.setup_anndata(adata, labels_key="kind")
    small: dict[str, Any] = {
        "n_hidden": 8,
        "n_heads": 2,
        "dim_head": 4,
        "gene_embedding": "learned",
    }
    model = ScBERTClassifier(adata, **small)
    model.labels_key = label
    return model


def evaluation_of(name: str, classes: list[str]) -> dict[str, Any]:
    row = {
        "model": name,
        "metric": "macro_f1",
        "estimate": 0.5,
        "low": 0.4,
        "high": 0.6,
        "interval": "bootstrap",
    }
    params = {"scheme": "group_kfold", "models": ["majority", name], "baselines": ["majority"]}
    return {
        "summary": pd.DataFrame([row]),
        "params": params,
        "classes": np.array(classes),
        "unit": "donor",
        "n_units": 6,
    }


def rendered(text: str) -> Any:
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(text)


def kinds(text: str) -> list[str]:
    """Kinds of what Markdown makes of a text, in order, with the levels of headings."""
    found = []
    for token in rendered(text):
        found.append(token.type + token.tag)
        found += [
            one.type
            for one in token.children or ()
            if one.type not in ("text", "text_special", "code_inline", "softbreak")
        ]
    return found


@pytest.mark.parametrize("case", NAMES)
def test_a_name_is_text(tmp_path: Path, case: str) -> None:
    name = NAMES[case]
    cards = []
    for i, one in enumerate(("plain", name)):
        classes = sorted(["x", one])
        gene = "G1" if set(one) & {"\n", "\r"} else one  # which no file of genes holds
        model = model_of(one, classes, [gene, "ITGA4", "CD38"])
        model.save_for_hub(tmp_path / str(i), evaluation=evaluation_of(one, classes), license=one)
        cards.append((tmp_path / str(i) / "README.md").read_text(encoding="utf-8"))
    plain, card = cards
    assert kinds(card.partition("\n---\n")[2]) == kinds(plain.partition("\n---\n")[2])
    first = yaml.safe_load(card.split("---\n")[1])
    assert list(first) == list(yaml.safe_load(plain.split("---\n")[1]))
    assert first["library_name"] == "scbert_cll"
    assert ModelCard.load(tmp_path / "1" / "README.md").data.library_name == "scbert_cll"
    assert all(c.isprintable() or c == "\n" for c in card)
    shown = "".join(
        one.content
        for token in rendered(card.partition("\n---\n")[2])
        for one in token.children or ()
    )
    if name.isprintable():
        assert shown.replace("&#58;", ":").count(name) >= 3, (
            "label, class and gene are legible as they are"
        )


@pytest.mark.parametrize(
    "where", ["label", "class", "gene", "evaluation", "licence", "unit", "layer"]
)
@pytest.mark.parametrize("case", PRIVATE)
def test_what_is_private_is_not_published(tmp_path: Path, case: str, where: str) -> None:
    text = PRIVATE[case]
    pick = lambda place, plain: text if where == place else plain  # noqa: E731
    classes = sorted(["x", pick("class", "y")])
    model = model_of(pick("label", "kind"), classes, [pick("gene", "G1"), "G2", "G3"])
    evaluation = evaluation_of(pick("evaluation", "scbert"), classes) | {
        "unit": pick("unit", "donor")
    }
    if where == "layer":
        model.registry["setup_args"]["layer"] = text
    with pytest.raises(
        ValueError, match=r"would publish (paths of this machine|e-mail addresses): '"
    ):
        model.save_for_hub(
            tmp_path / "out" / "m", evaluation=evaluation, license=pick("licence", "mit")
        )
    left = (
        [p for p in (tmp_path / "out").rglob("*") if "lock" not in p.name]
        if (tmp_path / "out").exists()
        else []
    )
    assert not left
    assert not (tmp_path / "out" / "m").exists()


def test_names_that_only_look_so_are_published(tmp_path: Path) -> None:
    for i, name in enumerate(PLAIN):
        model_of(name, sorted(["x", name]), [name, "G2"]).save_for_hub(
            tmp_path / str(i), evaluation=evaluation_of(name, sorted(["x", name]))
        )


@pytest.mark.parametrize(
    "repo_id", ['a/b"); import os; os.abort(); ("', "a", "a/b/c", "a/b\n# c", ""]
)
def test_a_repository_has_a_name(tmp_path: Path, repo_id: str) -> None:
    with pytest.raises(ValueError, match='repo_id must be "org/name"'):
        model_of("kind", ["x", "y"], ["G1", "G2"]).save_for_hub(tmp_path / "m", repo_id=repo_id)
    assert not (tmp_path / "m").exists()
