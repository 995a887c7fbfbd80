"""From the expressed genes of cells, one cell behind the other, to padded tokens, on whichever device they are.

Letters in shapes: b cells, n tokens of the longest, k genes of the largest background sample, nnz expressed genes of all cells together.
All shapes follow from the lengths, which stay on the host, so that nothing here waits for a GPU; but where a cell has fewer zero genes
than its sample should have (`_sample`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scbert_cll.nn.config import Config


def tokens(
    values: Tensor, genes: Tensor, lengths: Sequence[int] | Tensor, config: Config, order: Tensor | None = None
) -> dict[str, Tensor]:
    """Lay out cells as `config.tokens` wants them; see `Performer.encode` for what the tensors mean.

    Parameters
    ----------
    values
        Bins of the expressed genes, cell by cell, uint8 (nnz,).
    genes
        Which genes these are, int32 (nnz,); a cell has a gene once.
    lengths
        Number of expressed genes of each cell, (b,): a list, or a tensor on the CPU. One on a GPU would be waited for.
    order
        All genes in a random order, int64 (n_genes,), needed for ``tokens="background"``: a cell's sample is the first `n_background`
        that it does not express. It may stay on the CPU; only its beginning is moved.

    Returns
    -------
    ``tokens`` int64 (b, n), and unless every gene is a token ``genes`` int64 (b, n) and ``weight`` float32 (b, n), which is left out where
    all are 1. Behind the expressed genes come the sample, the end token (gene `n_genes`) and padding (gene 0 of weight 0).

    Raises
    ------
    ValueError
        A background without an order.
    """
    n_expressed = torch.as_tensor(lengths, dtype=torch.long, device="cpu")
    if config.tokens == "all":
        every = torch.zeros(len(n_expressed) * config.n_positions, dtype=torch.long, device=values.device)
        every.scatter_(0, _rows(n_expressed, genes) * config.n_positions + genes, values.long())
        return {"tokens": every.view(-1, config.n_positions)}
    cells, expressed = _padded(values, genes, n_expressed, config)
    if config.tokens == "background":
        weight = _add_background(
            cells["genes"], expressed, n_expressed, config, _sample(genes, n_expressed, config, order)
        )
    else:
        weight = expressed.float()
    return _without_ones(cells | {"weight": weight}, n_expressed, config)


def cut(cells: dict[str, Tensor], lengths: Sequence[Sequence[int]], config: Config) -> list[dict[str, Tensor]]:
    """Part cells that `tokens` laid out together: what it makes of those of each list of lengths alone."""
    parts: list[dict[str, Tensor]] = []
    stop = 0
    for part in lengths:
        start, stop = stop, stop + len(part)
        n_expressed = torch.as_tensor(part, dtype=torch.long)
        width = int(_n_tokens(n_expressed, config).max())
        found = {name: x[start:stop, :width].contiguous() for name, x in cells.items()}
        parts.append(_without_ones(found, n_expressed, config))
    return parts


def _padded(values: Tensor, genes: Tensor, n_expressed: Tensor, config: Config) -> tuple[dict[str, Tensor], Tensor]:
    """Expressed genes, with zeros behind them, and where they are, bool (b, n)."""
    place = torch.arange(int(_n_tokens(n_expressed, config).max()), device=genes.device)
    expressed = place < _column(n_expressed, genes)
    cells = {}
    for name, x in (("tokens", values), ("genes", genes)):
        nothing = torch.zeros(expressed.shape, dtype=torch.long, device=genes.device)
        cells[name] = nothing.masked_scatter_(expressed, x.long())
    return cells, expressed


def _add_background(genes: Tensor, expressed: Tensor, n_expressed: Tensor, config: Config, sample: Tensor) -> Tensor:
    """Write the sample and the end token behind the expressed genes (b, n); the weights of all."""
    n_sample = _n_sample(n_expressed, config)
    place = torch.arange(genes.shape[1], device=genes.device)
    end = _column(n_expressed + n_sample, genes)
    sampled = (place < end) & ~expressed
    genes.masked_scatter_(sampled, sample)
    # divided on the host, so that no device rounds otherwise
    share = (config.n_genes - n_expressed).float() / n_sample.clamp(min=1)
    weight = torch.where(sampled, _column(share, genes), expressed.float())
    if config.end_token:
        genes.masked_fill_(place == end, config.n_genes)
        weight.masked_fill_(place == end, 1)
    return weight


def _sample(genes: Tensor, n_expressed: Tensor, config: Config, order: Tensor | None) -> Tensor:
    """The first genes in `order` that each cell does not express, cell by cell."""
    if order is None:
        raise ValueError('tokens="background" draws its samples in one random order of all genes; name it (order=…).')
    n_sample = _n_sample(n_expressed, config)
    first = order[: int(n_expressed.max()) + config.n_background].to(genes.device, non_blocking=genes.is_cuda)
    m = len(first)  # whatever a cell expresses, its sample is among these
    column = torch.full((config.n_genes,), m, device=genes.device)  # all other genes share one
    column.scatter_(0, first, torch.arange(m, device=genes.device))
    free = torch.ones(len(n_expressed), m + 1, dtype=torch.bool, device=genes.device)
    free.view(-1).scatter_(0, _rows(n_expressed, genes) * (m + 1) + column.index_select(0, genes), False)
    rank = torch.arange(int(n_sample.max()), dtype=torch.int32, device=genes.device)
    wanted = (rank + 1).repeat(len(n_expressed), 1)  # (b, k)
    found = torch.searchsorted(free.cumsum(1, dtype=torch.int32), wanted)
    if bool((n_sample < len(rank)).any()):
        found = found[rank < _column(n_sample, genes)]
    return first.index_select(0, found.flatten())


def _n_sample(n_expressed: Tensor, config: Config) -> Tensor:
    """Number of background genes of each cell."""
    most = config.n_background if config.tokens == "background" else 0
    return (config.n_genes - n_expressed).clamp(max=most)


def _n_tokens(n_expressed: Tensor, config: Config) -> Tensor:
    """Number of tokens of each cell that are not padding."""
    if config.tokens == "all":
        return torch.full_like(n_expressed, config.n_positions)
    end_token = config.end_token and config.tokens == "background"
    return n_expressed + _n_sample(n_expressed, config) + end_token


def _without_ones(cells: dict[str, Tensor], n_expressed: Tensor, config: Config) -> dict[str, Tensor]:
    """Leave out the weights where every token stands for one gene; the lengths say so without a look at the weights."""
    n_tokens, n_sample = _n_tokens(n_expressed, config), _n_sample(n_expressed, config)
    all_zeros = config.tokens != "background" or bool((n_sample == config.n_genes - n_expressed).all())
    if all_zeros and bool((n_tokens == n_tokens[:1]).all()):
        cells.pop("weight", None)
    return cells


def _rows(n_expressed: Tensor, genes: Tensor) -> Tensor:
    """Which cell each expressed gene belongs to, (nnz,); the size spares waiting for it."""
    rows = torch.arange(len(n_expressed), device=genes.device)
    return rows.repeat_interleave(_column(n_expressed, genes).flatten(), output_size=len(genes))


def _column(x: Tensor, genes: Tensor) -> Tensor:
    """A number of each cell, from the host to the device of the genes: (b,) -> (b, 1)."""
    return x.to(genes.device, non_blocking=genes.is_cuda).unsqueeze(1)
