"""What `engine.py` times: performer-pytorch and our network from the same weights, and what they
work on.

Everything is prepared once in a folder (weights, cells), so that a measuring process reads it and
imports nothing else.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from scipy import sparse
from torch import Tensor, nn

from scbert_cll.nn import Config, Performer, favor, mask_tokens

N_LAYERS, N_HEADS, DIM_HEAD, WIDTH = 6, 10, 64, 200
N_GENES, N_EXPRESSED = 16_906, 1_500
PUBLISHED: dict[str, Any] = {
    "n_hidden": WIDTH,
    "n_layers": N_LAYERS,
    "n_heads": N_HEADS,
    "dim_head": DIM_HEAD,
    "dropout": 0.0,
    "gene_embedding": "learned",
    "train_gene_embedding": False,
    "end_token": True,
}
# what performer-pytorch's language model computes
AS_PEER = {
    "train_gene_embedding": True,
    "end_token": False,
    "out_bias": False,
    "stabilizer": "head",
    "tokens": "all",
}
_REPEATED = ".proj_updater."  # performer-pytorch lists its weights a second time under this
WARM_UP = 1_024  # tokens; enough that all code the measured call runs has been loaded
BINS = (0.45, 0.3, 0.15, 0.07, 0.03)  # share of the expressed genes in bin 1 to 5


@dataclass(frozen=True)
class Settings:
    lengths: tuple[int, ...] = (1_000, 4_000, N_GENES + 1)
    attention_lengths: tuple[int, ...] = (1_000, 2_000, 4_000)
    backgrounds: tuple[int, ...] = (250, 500, 1_000, 2_000)
    cells: int = 8
    repeats: int = 3
    device: str = "cpu"
    quick: bool = False

    @property
    def n_genes(self) -> int:
        return self.lengths[-1] - 1

    @property
    def n_expressed(self) -> int:
        return round(self.n_genes * N_EXPRESSED / N_GENES)

    @property
    def modes(self) -> dict[str, dict[str, Any]]:
        """Which genes attend, by the name in the tables."""
        background = {
            f"background {n}": {"tokens": "background", "n_background": n} for n in self.backgrounds
        }
        return {
            "all": {"tokens": "all"},
            **background,
            "expressed": {"tokens": "expressed", "end_token": False},
        }


class Work(NamedTuple):
    warm_up: Callable[[], object]
    work: Callable[[], object]
    cells: int = 1


@dataclass(frozen=True)
class Scene:
    """A prepared folder, and how many tokens the cell has."""

    folder: Path
    settings: Settings
    length: int

    @classmethod
    def read(cls, folder: Path, length: int) -> Self:
        settings = {
            k: tuple(v) if isinstance(v, list) else v
            for k, v in _json(folder / "settings.json").items()
        }
        return cls(folder, Settings(**settings), length)

    def tokens(self) -> Tensor:
        return self.batch("all")["tokens"][:1, : self.length]

    def batch(self, mode: str) -> dict[str, Tensor]:
        return load_file(self.folder / f"{mode}.safetensors", device=self.settings.device)

    def peer(self) -> nn.Module:
        """performer-pytorch's language model."""
        network = new_peer(self.length)
        found = network.load_state_dict(self._weights(), strict=False)
        if found.unexpected_keys or not all(_REPEATED in name for name in found.missing_keys):
            raise SystemExit(f"performer-pytorch's weights do not fit: {found}")
        return network.to(self.settings.device).eval()

    def as_peer(self) -> Performer:
        """Our network with performer-pytorch's weights and choices."""
        network = Performer(Config(n_genes=self.length, **PUBLISHED | AS_PEER))
        network.load_state_dict(from_peer(self._weights()))
        return network.to(self.settings.device).eval()

    def published(self, **changes: Any) -> Performer:
        """The published network as we build it, with the same random weights whichever genes
        attend.
        """
        torch.manual_seed(0)
        return (
            Performer(Config(n_genes=self.settings.n_genes, **PUBLISHED | changes))
            .to(self.settings.device)
            .eval()
        )

    def _weights(self) -> dict[str, Tensor]:
        state = load_file(self.folder / "weights.safetensors")
        state["pos_emb.emb.weight"] = state["pos_emb.emb.weight"][: self.length].clone()
        return state


def new_peer(length: int) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from performer_pytorch import PerformerLM
    sizes = {"dim": WIDTH, "depth": N_LAYERS, "heads": N_HEADS, "dim_head": DIM_HEAD}
    return PerformerLM(num_tokens=7, max_seq_len=length, rotary_position_emb=False, **sizes)


def from_peer(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """performer-pytorch's names to ours."""
    ours = {
        "token_embedding.weight": state["token_emb.weight"],
        "gene_embedding.weight": state["pos_emb.emb.weight"],
    }
    pairs = {"norm": "norm", "to_bins": "to_out"}
    for i in range(N_LAYERS):
        attention, feedforward = (f"performer.net.layers.{i}.{part}" for part in (0, 1))
        block = f"blocks.{i}"
        ours[f"{block}.attention.qkv.weight"] = torch.cat(
            [state[f"{attention}.fn.to_{x}.weight"] for x in "qkv"]
        )
        ours[f"{block}.attention.out.weight"] = state[f"{attention}.fn.to_out.weight"]
        ours[f"{block}.attention.projection"] = state[
            f"{attention}.fn.fast_attention.projection_matrix"
        ]
        pairs[f"{block}.attention_norm"], pairs[f"{block}.feedforward_norm"] = (
            f"{attention}.norm",
            f"{feedforward}.norm",
        )
        for layer, theirs in (("feedforward.0", "w1"), ("feedforward.2", "w2")):
            pairs[f"{block}.{layer}"] = f"{feedforward}.fn.fn.{theirs}"
    return ours | {
        f"{a}.{part}": state[f"{b}.{part}"] for a, b in pairs.items() for part in ("weight", "bias")
    }


def prepare(folder: Path, settings: Settings) -> None:
    """Write weights and cells."""
    from scbert_cll.model.training.batches import Rows, TokenRows

    (folder / "settings.json").write_text(json.dumps(asdict(settings)))
    torch.manual_seed(0)
    state = new_peer(settings.lengths[-1]).state_dict()
    save_file(
        {n: w for n, w in state.items() if _REPEATED not in n}, folder / "weights.safetensors"
    )
    csr = simulate(settings.cells, settings.n_genes, settings.n_expressed)
    for mode, changes in settings.modes.items():
        config = Config(n_genes=settings.n_genes, **PUBLISHED | changes)
        (cells,) = TokenRows(csr, config)[Rows(list(range(settings.cells)))]["cells"]
        save_file(cells, folder / f"{mode}.safetensors")


def simulate(n_cells: int, n_genes: int, n_expressed: int) -> sparse.csr_matrix:
    """Bins of cells that express just as many genes each, drawn at random."""
    rng = np.random.default_rng(0)
    genes = [np.sort(rng.choice(n_genes, n_expressed, replace=False)) for _ in range(n_cells)]
    bins = 1 + rng.choice(len(BINS), n_cells * n_expressed, p=BINS)
    pointers = np.arange(n_cells + 1) * n_expressed
    return sparse.csr_matrix((bins, np.concatenate(genes), pointers), shape=(n_cells, n_genes))


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


# ---- what is done with them


def forward(network: nn.Module, tokens: Tensor, *, bf16: bool = False) -> Tensor:
    """Logits of all tokens."""
    with torch.inference_mode(), torch.autocast(tokens.device.type, torch.bfloat16, enabled=bf16):
        return network(tokens)


def step(network: nn.Module, tokens: Tensor, *, bf16: bool = False) -> None:
    """Guess hidden genes, and gradients of everything that is trained; no optimiser."""
    network.train()
    seen, chosen = mask_tokens(tokens, 6, generator=torch.Generator().manual_seed(0))
    with torch.autocast(tokens.device.type, torch.bfloat16, enabled=bf16):
        logits = network(seen)[chosen]
    F.cross_entropy(logits.float(), tokens[chosen]).backward()
    network.zero_grad(set_to_none=True)  # so that the next call's gradients count in its memory


def step_where_guessed(network: Performer, tokens: Tensor, *, whole: bool) -> None:
    """The same, with the last block for the hidden genes alone or for all."""
    network.train()
    seen, chosen = mask_tokens(tokens, 6, generator=torch.Generator().manual_seed(0))
    encodings = network.encode(seen)[chosen] if whole else network.encode(seen, at=chosen)
    F.cross_entropy(network.to_bins(encodings), tokens[chosen]).backward()
    network.zero_grad(set_to_none=True)


def one_layer(network: Performer, tokens: Tensor, *, dense: bool) -> Tensor:
    """Attention each token receives in the first layer, per head (h, n)."""
    attention = network.blocks[0].attention
    with torch.inference_mode():
        x = network.blocks[0].attention_norm(network.embed(tokens))
        if dense:
            return dense_received(attention, x)
        return attention.received(x, favor.mean_weight(tokens, None), None)[0]


def dense_received(attention: nn.Module, x: Tensor) -> Tensor:
    """Column means of the whole attention matrix, a head at a time, from performer-pytorch's
    feature map: (h, n).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from performer_pytorch.performer_pytorch import softmax_kernel
    features = partial(softmax_kernel, projection_matrix=attention.projection)
    received = []
    for q, k in zip(attention.queries(x)[0].unbind(1), attention.keys(x)[0].unbind(1), strict=True):
        matrix = (
            features(q[None, None], is_query=True)[0, 0]
            @ features(k[None, None], is_query=False)[0, 0].T
        )
        received.append((matrix / matrix.sum(-1, keepdim=True)).mean(0))
    return torch.stack(received)


def gene_attention(network: Performer, tokens: Tensor) -> Tensor:
    with torch.inference_mode():
        return network.gene_attention(tokens)


def encode(network: Performer, batch: dict[str, Tensor], *, bf16: bool = False) -> Tensor:
    with (
        torch.inference_mode(),
        torch.autocast(batch["tokens"].device.type, torch.bfloat16, enabled=bf16),
    ):
        return network.encode(**batch)


def encode_levels(network: Performer, tokens: Tensor, *, apart: bool) -> Tensor:
    """A network without gene vectors: each level once, or the blocks for every token."""
    with torch.inference_mode():
        if not apart:
            return network.encode(tokens)
        x = network.token_embedding(tokens)
        for block in network.blocks:
            x = block(x)
        return network.norm(x)


def first_block(network: Performer, tokens: Tensor, *, apart: bool) -> Tensor:
    """The first block of several cells, each by itself, or with the sums over genes that are not
    expressed shared.
    """
    with torch.inference_mode():
        x = network.embed(tokens)
        found = network.blocks[0](x) if apart else network._first_block(tokens, x)
    if found is None:
        raise SystemExit("The sums over genes that are not expressed could not be shared.")
    return found


# ---- tasks by name


def _on_tokens(scene: Scene, network: nn.Module, run: Callable[..., object], **how: Any) -> Work:
    tokens = scene.tokens()
    return Work(
        partial(run, network, tokens[:, :WARM_UP], **how), partial(run, network, tokens, **how)
    )


def _peer(run: Callable[..., object], **how: Any) -> Callable[[Scene], Work]:
    return lambda scene: _on_tokens(scene, scene.peer(), run, **how)


def _ours(
    run: Callable[..., object], *, recompute: bool = False, **how: Any
) -> Callable[[Scene], Work]:
    def work(scene: Scene) -> Work:
        network = scene.as_peer()
        network.set_recompute(recompute)
        return _on_tokens(scene, network, run, **how)

    return work


def _published(
    run: Callable[..., object], changes: dict[str, Any], **how: Any
) -> Callable[[Scene], Work]:
    return lambda scene: _on_tokens(scene, scene.published(tokens="all", **changes), run, **how)


def _mode(mode: str, *, bf16: bool = False) -> Callable[[Scene], Work]:
    def work(scene: Scene) -> Work:
        network, n = (
            scene.published(**scene.settings.modes[mode]),
            1 if mode == "all" else scene.settings.cells,
        )
        batch = {name: values[:n] for name, values in scene.batch(mode).items()}
        short = {name: values[:1, :WARM_UP] for name, values in batch.items()}
        return Work(
            partial(encode, network, short, bf16=bf16),
            partial(encode, network, batch, bf16=bf16),
            n,
        )

    return work


def _first_block(*, apart: bool) -> Callable[[Scene], Work]:
    def work(scene: Scene) -> Work:
        network, tokens = scene.published(tokens="all"), scene.batch("all")["tokens"]
        run = partial(first_block, network, apart=apart)
        return Work(partial(run, tokens[:, :WARM_UP]), partial(run, tokens), len(tokens))

    return work


def tasks(settings: Settings) -> dict[str, Callable[[Scene], Work]]:
    found = {
        "peer forward": _peer(forward),
        "peer forward bf16": _peer(forward, bf16=True),
        "peer step": _peer(step),
        "forward": _ours(forward),
        "forward bf16": _ours(forward, bf16=True),
        "step": _ours(step),
        "step recomputed": _ours(step, recompute=True),
        "dense attention": _ours(one_layer, dense=True),
        "attention": _ours(one_layer, dense=False),
        "gene attention": _ours(gene_attention),
        "step whole": _published(step_where_guessed, {}, whole=True),
        "step at": _published(step_where_guessed, {}, whole=False),
        "first block apart": _first_block(apart=True),
        "first block": _first_block(apart=False),
        "levels apart": _published(encode_levels, {"gene_embedding": "none"}, apart=True),
        "levels": _published(encode_levels, {"gene_embedding": "none"}, apart=False),
        "encode expressed bf16": _mode("expressed", bf16=True),
    }
    kept = {f"{name} kept": found[name] for name in ("peer forward", "peer step")}
    return found | kept | {f"encode {mode}": _mode(mode) for mode in settings.modes}


# The C library's allocator hands large freed blocks back to the system and takes them anew; with
# these settings it keeps them.
KEEPS_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}
