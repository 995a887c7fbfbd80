from __future__ import annotations

from functools import reduce

from mudata import MuData

from scbert_cll._process import same_random_state


def intersect_obs(data: MuData) -> None:
    """Keep the cells that every modality has, in place.

    CITE-seq is filtered per modality, so RNA and protein often have different cells. Labels of a
    protein need both.

    Parameters
    ----------
    data
        MuData in memory. The other cells are taken out of it; ``data.copy()`` keeps them.

    Returns
    -------
    None. All modalities hold the shared cells, in the order of the first one.

    Raises
    ------
    TypeError
        No MuData.
    ValueError
        A file, a view, or no shared cell.

    Examples
    --------
    >>> import scbert_cll as sb
    >>> mdata = sb.datasets.cll_toy()
    >>> mdata.mod["prot"] = mdata["prot"][:100].copy()
    >>> sb.pp.intersect_obs(mdata)
    >>> mdata["rna"].n_obs
    100
    """
    if not isinstance(data, MuData):
        raise TypeError(
            f"Expected a MuData, found {type(data).__name__}; one AnnData has one set of cells."
        )
    if data.isbacked:
        remedy = "read it into memory first: mudata.read_h5mu(path)"
        raise ValueError(f"mdata is backed; {remedy}.")
    if data.is_view:
        raise ValueError(
            "mdata is a view of another MuData; make it its own object first: mdata = mdata.copy()."
        )
    names = [part.obs_names for part in data.mod.values()]
    shared = reduce(lambda cells, others: cells[cells.isin(others)], names)
    if shared.empty:
        first = {key: part.obs_names[0] for key, part in data.mod.items() if part.n_obs}
        raise ValueError(
            f"No cell is in all modalities; names begin with {first}. Write the names of the "
            f"cells alike."
        )
    for part in data.mod.values():
        part._inplace_subset_obs(part.obs_names.get_indexer(shared))
    with same_random_state():  # mudata draws a name that nobody sees
        data.update_obs()
