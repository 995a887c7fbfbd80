"""Text as every supported pandas can write it."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import numpy as np
import pandas as pd


def plain_strings(data: Any) -> None:
    """Make pandas 3's strings plain objects in an AnnData or MuData where pandas 2 runs.

    Values stay. A file that was written with pandas 3 comes with such strings, and anndata refuses
    to write them with pandas 2.
    """
    if int(pd.__version__.partition(".")[0]) >= 3 or pd.options.future.infer_string:
        return
    for part in (*getattr(data, "mod", {}).values(), data):
        for axis in ("obs", "var"):
            frame = getattr(part, axis)
            if (plain := _plain(frame)) is not frame:
                setattr(part, axis, plain)
        for slot in (part.obsm, part.varm, part.uns):
            _in_place(slot)


def _in_place(store: MutableMapping[Any, Any]) -> None:
    for key, value in list(store.items()):
        if isinstance(value, MutableMapping):
            _in_place(value)
        elif (plain := _plain(value)) is not value:
            store[key] = plain


def _plain(value: Any) -> Any:
    """The value itself where it holds none of these strings."""
    if isinstance(value, pd.DataFrame):
        return _plain_frame(value)
    if not _is_foreign(getattr(value, "dtype", None)):
        return value
    if isinstance(value, pd.Series):
        return _plain_frame(value.to_frame()).iloc[:, 0]
    return np.asarray(value, dtype=object)


def _plain_frame(frame: pd.DataFrame) -> pd.DataFrame:
    foreign = [i for i, dtype in enumerate(frame.dtypes) if _is_foreign(dtype)]
    if not foreign and not any(_is_foreign(axis.dtype) for axis in frame.axes):
        return frame
    frame = frame.copy()
    for i in foreign:
        column = frame.iloc[:, i].to_numpy(dtype=object)
        gaps = pd.isna(column).any()  # no file holds one in plain text
        frame.isetitem(i, pd.Categorical(column) if gaps else column)
    index, columns = (
        pd.Index(axis, dtype=object, name=axis.name) if _is_foreign(axis.dtype) else axis
        for axis in frame.axes
    )
    return frame.set_axis(index, axis=0).set_axis(columns, axis=1)


def _is_foreign(dtype: Any) -> bool:
    """Pandas 3's str, whose missing value is NaN; the older "string" is a choice of the user's."""
    return isinstance(dtype, pd.StringDtype) and dtype.na_value is not pd.NA
