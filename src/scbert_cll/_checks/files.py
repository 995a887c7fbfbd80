"""Files: whether they can be opened, or their place is free, and the text that they hold.

Of text: encodings, compression, separators, and how numbers are written.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import lzma
import os
import re
import stat
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from io import BufferedIOBase, StringIO
from os import PathLike
from pathlib import Path
from typing import BinaryIO, Final

import pandas as pd

from scbert_cll._checks.words import bytes_in_words, listed

type FilePath = str | PathLike[str]

# bytes of a text, unpacked (parsed it takes several times that); of one line (60,000 genes as
# columns take 1 MB); of a file of options
MOST_TEXT: Final = 10**9
MOST_LINE: Final = 16 * 10**6
MOST_OPTIONS: Final = 10**6
_KINDS: Final = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# how a file of each encoding may begin; that of UTF-32 begins with that of UTF-16
_MARKS: Final = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_COMPRESSED: Final[tuple[tuple[bytes, Callable[[BinaryIO], BufferedIOBase]], ...]] = (
    (b"\x1f\x8b", lambda file: gzip.GzipFile(fileobj=file)),
    (b"BZh", bz2.BZ2File),
    (b"\xfd7zXZ", lzma.LZMAFile),
)
_AT_A_TIME: Final = 2**20  # bytes
_WORKBOOK: Final = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
_ZEROS: Final = 0.3  # share of zero bytes from which text is of two bytes a letter
_SEPARATORS: Final = "\t,;"
# a first line that tells Excel what separates columns
_EXCEL: Final = re.compile(r"sep=(.)\r?\n?", re.IGNORECASE)
_SPACES: Final = "[ \u00a0\u202f']"  # between thousands
_COMMA: Final = re.compile(rf",|{_SPACES}")
_MARKED: Final = re.compile(rf"[,.]|{_SPACES}")
_POWER: Final = r"(?:[eE][-+]?\d+)?"
_NUMBER: Final = re.compile(rf"[-+]?(?:\d|[.,]|{_SPACES}(?=\d{{3}}))*\d[.,]?{_POWER}")
_GROUPS: Final = rf"\d{{1,3}}(?:{_SPACES}\d{{3}})+"
_DOTS: Final = r"\d{1,3}(?:\.\d{3})+"
_DECIMAL: Final = re.compile(rf"[-+]?(?:\d*|{_DOTS}|{_GROUPS})(?:,\d*)?{_POWER}")
_COMMAS: Final = r"\d{1,3}(?:,\d{3})+"
_THOUSANDS: Final = re.compile(rf"[-+]?(?:\d+|{_COMMAS}|{_GROUPS})(?:\.\d*)?{_POWER}")


def plain_file(path: FilePath, what: str = "file", *, most: int | None = None) -> Path:
    """A file that can be read to its end: no folder, pipe, socket or device.

    Raises
    ------
    FileNotFoundError
        There is none.
    ValueError
        It is something else, or holds more bytes than `most`.
    """
    path = Path(path)
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"There is no {what} {path}.") from error
    except PermissionError:
        raise
    except (ValueError, OSError) as error:  # ValueError: a zero byte in the name
        why = getattr(error, "strerror", None) or error
        raise ValueError(f"{str(path)[:80]!r} is not a file name: {why}.") from error
    if kind := _KINDS.get(stat.S_IFMT(status.st_mode)):
        remedy = "write what it holds to a file first"
        if kind == "a folder":
            remedy = "name the file"
        raise ValueError(f"{path} is {kind}, and a plain file is expected; {remedy}.")
    if most is not None and status.st_size > most:
        size, limit = bytes_in_words(status.st_size), bytes_in_words(most)
        raise ValueError(f"{path} holds {size}; at most {limit} are read here.")
    return path


def plain_or_folder(path: FilePath, what: str = "file") -> Path:
    """A plain file, or a folder where what is read may be one."""
    if not os.path.isdir(path):  # noqa: PTH112
        return plain_file(path, what)
    for place, _, files in os.walk(path):
        for name in files:
            if not (Path(place) / name).is_file():
                plain_file(Path(place) / name)
    return Path(path)


def new_file(path: Path, *, overwrite: bool) -> None:
    """Refuse a place that is taken, unless it is a file and to be replaced."""
    if path.is_dir():
        raise FileExistsError(f"{path} is a folder; name a file.")
    if path.exists() and not overwrite:
        remedy = "pass overwrite=True to replace it, or name another file"
        raise FileExistsError(f"{path} exists; {remedy}.")


def new_folder(path: Path) -> None:
    """Refuse a place that is taken."""
    if path.exists():
        raise FileExistsError(f"{path} exists; delete it, or name another folder.")


def read_text(path: FilePath) -> str:
    """The text of a file, compressed or not, in UTF-8, UTF-16 or UTF-32.

    What is none of these is read as Windows-1252 (Western Europe), with a warning.
    """
    path = plain_file(path)
    data = read_bytes(path)
    if data.startswith(_WORKBOOK):
        raise ValueError(
            f"{path.name} is a workbook or an archive; save the sheet as CSV, or pass "
            f"pd.read_excel(...)."
        )
    mark = next((name for mark, name in _MARKS if data.startswith(mark)), None)
    encoding = mark or _unmarked(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8" or b"\0" in data:
            raise _not_text(path, f"or damaged ({error})") from error
        text = _western(data, path.name)
    if "\0" in text:
        raise _not_text(path, "since it holds zero bytes")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _not_text(path: Path, why: str) -> ValueError:
    remedy = "save it as CSV or text in UTF-8"
    return ValueError(f"{path.name} is not text, {why}; {remedy}.")


def read_bytes(path: FilePath, *, lines: bool = True) -> bytes:
    """The bytes of a plain file, unpacked where it is compressed.

    At most `MOST_TEXT`, and with `lines` at most `MOST_LINE` in a line.
    """
    path = plain_file(path, most=MOST_TEXT)
    with path.open("rb") as file:
        start = file.read(6)
        file.seek(0)
        unpacks = [unpack for mark, unpack in _COMPRESSED if start.startswith(mark)]
        if not unpacks:
            return _bounded(file, path.name, lines=lines)
        try:
            return _bounded(unpacks[0](file), path.name, lines=lines)
        except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            raise EOFError(
                f"{path.name} is compressed, and cannot be unpacked: {error}. Get the file again."
            ) from error


def _bounded(file: BufferedIOBase, name: str, *, lines: bool) -> bytes:
    """All of a file, unless it is larger than one can work with: 13 MB may unpack to 3 GB."""
    data, line = bytearray(), 0
    while chunk := file.read(_AT_A_TIME):
        data += chunk
        end = max(chunk.rfind(b"\n"), chunk.rfind(b"\r"))
        line = line + len(chunk) if end < 0 else len(chunk) - end - 1
        if lines and line > MOST_LINE:
            raise ValueError(
                f"{name} has a line of more than {bytes_in_words(MOST_LINE)}, so it is not a "
                "table or list of this package. Write a line for each row, or pass a DataFrame."
            )
        if len(data) > MOST_TEXT:
            raise ValueError(
                f"{name} holds more than {bytes_in_words(MOST_TEXT)}, unpacked; at most that "
                f"is read. Take the rows and columns that are needed."
            )
    return bytes(data)


def _unmarked(data: bytes) -> str:
    """UTF-16 shows by the zero bytes beside its letters."""
    start = data[:4096]
    if start.count(0) < _ZEROS * len(start) or not start:
        return "utf-8"
    return "utf-16-le" if start[1::2].count(0) > start[::2].count(0) else "utf-16-be"


def _western(data: bytes, name: str) -> str:
    """Windows-1252; the few bytes that it lacks are taken as Latin-1 has them."""
    warnings.warn(
        f"{name} is not UTF-8; it is read as Windows-1252 (Western Europe). If letters look "
        f"wrong, save it as UTF-8.",
        stacklevel=4,
    )
    try:
        return data.decode("cp1252")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def open_table(
    path: FilePath, sep: str | None = None, *, comment: str | None = None
) -> tuple[StringIO, str | None]:
    """A table's text from its first line on, and what separates its columns (None: nothing does).

    No quote in it swallows rows.
    """
    text = read_text(path)
    if excel := _EXCEL.match(text):
        text, sep = text[excel.end() :], sep or excel[1]
    lines: Iterator[str] = filter(str.strip, StringIO(text))
    if comment:
        lines = (line for line in lines if not line.startswith(comment))
    first = next(lines, "")
    separators = [mark for mark in _SEPARATORS if mark in first]
    sep = sep or max(separators, key=first.count, default=None)
    _no_lost_rows(text, sep, Path(path).name, comment)
    return StringIO(text), sep


def fields_of(line: str, sep: str, name: str) -> list[str]:
    """Fields of one line of a table."""
    try:
        return next(csv.reader([line], delimiter=sep), [])
    except csv.Error as error:
        raise _long_field(line, name) from error


def _no_lost_rows(text: str, sep: str | None, name: str, comment: str | None) -> None:
    """Refuse a quoted field over several lines that holds separators.

    Its quote was not closed, and the rows in it would be lost.
    """
    if odd_quotes(text) is None:
        return
    lines: Iterable[str] = StringIO(text)
    if comment:
        lines = ("" if line.startswith(comment) else line for line in lines)
    reader, before = csv.reader(lines, delimiter=sep or "\t"), 0
    try:
        for row in reader:
            long = [field for field in row if "\n" in field and (sep or "") in field]
            if long and reader.line_num > before + 1:
                raise ValueError(
                    f"{name} has a quote in line {before + 1} that is closed in line "
                    f"{reader.line_num} or never, so the rows between would be lost. Close it or "
                    "take it out; where the text is meant to be that long, pass a DataFrame: "
                    "pd.read_csv(path)."
                )
            before = reader.line_num
    except csv.Error as error:
        raise _long_field("", name) from error


def odd_quotes(text: str) -> int | None:
    """Number of the first line in which a quote is not closed; None where there is none."""
    if '"' not in text:
        return None
    lines = enumerate(StringIO(text), 1)
    return next((i for i, line in lines if line.count('"') % 2), None)


def _long_field(line: str, name: str) -> ValueError:
    start = f", which begins with {line[:30]!r}," if line else ""
    return ValueError(
        f"{name} has a field of more than {csv.field_size_limit():,} characters{start} so its "
        "table is damaged: a quote is not closed, or a separator is missing. Get the file again, "
        "or say what separates its columns."
    )


def numbers_as_written(
    table: pd.DataFrame, texts: Callable[[], pd.DataFrame], sep: str, name: str
) -> pd.DataFrame:
    """A table whose numbers with decimal commas, or marks between thousands, are numbers.

    What may be either is refused. A comma in a table that commas separate is no decimal one: there
    only thousands are read. `texts` gives the table as it was written.
    """
    columns = {i: _with_marks(table.iloc[:, i]) for i in range(1, table.shape[1])}
    marked = {i: column for i, column in columns.items() if column is not None}
    values = pd.concat(list(marked.values())) if marked else pd.Series(dtype=object)
    values = values[values.map(_MARKED.search).notna()]
    is_thousands = all(map(_THOUSANDS.fullmatch, values))
    is_decimal = all(map(_DECIMAL.fullmatch, values)) and "," in "".join(values)
    if not marked or not (is_thousands or (is_decimal and sep != ",")):
        return table
    if is_decimal and is_thousands:
        raise ValueError(
            f"{name} has numbers such as {listed(values.unique(), 3)} (column "
            f"{str(table.columns[next(iter(marked))])!r}), which may have decimal commas or "
            f"thousands. Say which: pass pd.read_csv(path, sep={sep!r}, decimal=',') or "
            f"pd.read_csv(path, sep={sep!r}, thousands=',')."
        )
    if is_decimal:
        _no_points(table, texts(), name)
    table = table.copy()
    for i, column in marked.items():
        plain = column.str.replace(_SPACES, "", regex=True)
        plain = plain.str.replace("." if is_decimal else ",", "").str.replace(",", ".")
        table.isetitem(i, pd.to_numeric(plain).reindex(table.index).to_numpy())
    return table


def _no_points(table: pd.DataFrame, texts: pd.DataFrame, name: str) -> None:
    """Refuse points beside decimal commas: they could mean thousands."""
    for i in range(1, table.shape[1]):
        pointed = [text for text in texts.iloc[:, i].dropna() if "." in text]
        if pointed and pd.api.types.is_numeric_dtype(table.iloc[:, i]):
            raise ValueError(
                f"{name} has numbers with decimal commas, and others with points, e.g. "
                f"{listed(pointed, 3)} (column {str(table.columns[i])!r}): decimals or thousands? "
                "Write all in one way, or pass a DataFrame: pd.read_csv(path, decimal=..., "
                "thousands=...)."
            )


def _with_marks(column: pd.Series[str]) -> pd.Series[str] | None:
    """The values of a column of text if all are numbers, some of them with a comma or space."""
    if pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        return None
    values = column.dropna().map(lambda value: str(value).strip()).astype(object)
    are_numbers = len(values) > 0 and all(map(_NUMBER.fullmatch, values))
    return values if are_numbers and any(map(_COMMA.search, values)) else None
