"""Rows of data sets: files of this machine, or Hugging Face data sets, whatever their columns.

Numbers and dates stay as they are written. Errors are one sentence, and name the file and the line,
or the index of the row, that is to blame.
"""

import csv
import difflib
import io
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from asyncds.config.one_line import one_line

FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd"}
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Broken:
    """A row of a file that can't be read. why: a sentence that names the file and the line."""

    why: str


def read_rows(dataset: str, *, subset: str | None = None, split: str = "train") -> Sequence[Row]:
    """The rows of a data set, as ``read`` reads them. Raises ValueError for a broken row too."""
    return whole(read(dataset, subset=subset, split=split))


def whole(rows: Sequence[Row | Broken]) -> Sequence[Row]:
    """The rows, none of which may be broken. Raises ValueError."""
    # A file's rows are a list; only those can be broken.
    if isinstance(rows, list) and (why := next((r.why for r in rows if isinstance(r, Broken)), "")):
        raise ValueError(why)
    return rows  # type: ignore[return-value]


def read(
    dataset: str, *, subset: str | None = None, split: str = "train"
) -> Sequence[Row | Broken]:
    """The rows of a data set, with a Broken where a file's row can't be read.

    dataset: a file in one of FORMATS, compressed or not; a directory of such files whose names
    begin with the split's; or what ``datasets.load_dataset`` takes, a hub id or a directory.
    subset: the data set's configuration. split: a file is all one split. Raises ValueError, also
    for a data set without rows.
    """
    path = Path(dataset).expanduser()
    if path.is_file():
        rows: Sequence[Row | Broken] = _file_rows(path)
    elif path.is_dir() and subset is None and (files := _files(path, split)):
        rows = [row for file in files for row in _file_rows(file)]
    else:
        if not path.exists() and (why := _not_there(dataset)):
            raise ValueError(why)
        rows = _hub_rows(dataset if not path.exists() else str(path), subset, split)
    if not len(rows):
        raise ValueError(f"data set {dataset!r} has no rows")
    return rows


def missing(dataset: str) -> str:
    """Why a data set that must be on this machine isn't; "" if it is, or may be on the hub."""
    return "" if Path(dataset).expanduser().exists() else _not_there(dataset)


def columns(rows: Sequence[Row | Broken]) -> list[str]:
    """Names of all columns, in the order in which they appear."""
    names = getattr(rows, "column_names", None)
    if names is None:
        whole = (row for row in rows if not isinstance(row, Broken))
        names = dict.fromkeys(name for row in whole for name in row)
    return list(names)


def field(row: Row, name: str) -> Any:
    """The value of a column, or of ``outer.inner`` in a structured one; None if there is none."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def text(value: Any) -> str:
    """A value as it would be written: numbers exact and without exponent, dates as ISO writes them.

    A list is its elements with commas between them; None is nothing. Raises ValueError for what is
    no text, number or list of these, and for NaN and infinity.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool | int):
        return str(value)
    if isinstance(value, float | Decimal):
        number = value if isinstance(value, Decimal) else Decimal(repr(value))
        if not number.is_finite():
            raise ValueError(f"{number} is not a number that can be an answer")
        return f"{number:f}"
    if isinstance(value, datetime) and value.time() == datetime.min.time():
        return value.date().isoformat()
    if isinstance(value, date | datetime):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return ", ".join(text(element) for element in value)
    raise ValueError(f"text, a number or a list of these is needed, not {type(value).__name__}")


def _files(directory: Path, split: str) -> list[Path]:
    """Files of a split: in the directory or in its folder ``data``, ``split.…`` or ``split-…``."""
    found = [*directory.glob(f"{split}[.-]*"), *directory.glob(f"data/{split}[.-]*")]
    return sorted(path for path in found if _format(path))


def _format(path: Path) -> str:
    """The suffix that says how a file is written, whatever compresses it; "" if unknown."""
    suffixes = [suffix for suffix in path.suffixes if suffix.lower() not in COMPRESSIONS]
    last = suffixes[-1].lower() if suffixes else ""
    return last if last in FORMATS else ""


def _file_rows(path: Path) -> list[Row | Broken]:
    kind = _format(path)
    if not kind:
        known = ", ".join(FORMATS)
        raise ValueError(f"{path} has an unknown format: known are {known}, compressed or not")
    try:
        content = _content(path)
        if kind == ".parquet":
            return [*_parquet(content)]
        decoded = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 at byte {error.start}: convert it") from None
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"{path} can't be read: {one_line(error)}") from error
    if kind in (".csv", ".tsv"):
        return list(_table(path, decoded, delimiter="," if kind == ".csv" else "\t"))
    if kind == ".json" and decoded.lstrip()[:1] == "[":
        return [*_json(path, decoded)]
    return list(_json_lines(path, decoded))


def _content(path: Path) -> bytes:
    # Costs a second, and a process that only scores does without.
    import pyarrow

    compression = COMPRESSIONS.get(path.suffix.lower())
    if compression == "xz":
        import lzma

        return lzma.decompress(path.read_bytes())
    if compression is None:
        return path.read_bytes()
    with pyarrow.CompressedInputStream(str(path), compression) as stream:
        content: bytes = stream.read()
        return content


def _parquet(content: bytes) -> list[Row]:
    import pyarrow.parquet

    rows: list[Row] = pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist()
    return rows


def _table(path: Path, content: str, *, delimiter: str) -> Iterator[Row | Broken]:
    csv.field_size_limit(sys.maxsize)  # a cell may be a document
    reader = csv.DictReader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if None in row or None in row.values():
                yield Broken(f"{path}, line {reader.line_num}: not as many cells as columns")
            else:
                yield row
    except csv.Error as error:
        line = reader.reader.line_num
        raise ValueError(f"{path}, line {line}: not CSV: {error}") from None


def _json(path: Path, content: str) -> Iterator[Row | Broken]:
    for index, row in enumerate(_parsed(path, content, line=1)):
        why = f"{path}, row {index}: an object with columns is needed, not {row!r:.40}"
        yield row if isinstance(row, dict) else Broken(why)


def _json_lines(path: Path, content: str) -> Iterator[Row | Broken]:
    # Not splitlines(), which also ends lines where JSON doesn't.
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = _parsed(path, line, line=number)
        except ValueError as error:
            yield Broken(str(error))
            continue
        why = f"{path}, line {number}: an object with columns is needed, one a line"
        yield row if isinstance(row, dict) else Broken(why)


def _parsed(path: Path, content: str, *, line: int) -> Any:
    def constant(name: str) -> Any:
        return Decimal(name.replace("Infinity", "inf"))

    try:
        return json.loads(content, parse_float=Decimal, parse_constant=constant)
    except json.JSONDecodeError as error:
        where = line + error.lineno - 1
        raise ValueError(f"{path}, line {where}: not JSON: {error.msg}") from None
    except RecursionError:
        raise ValueError(
            f"{path}, line {line}: not JSON that can be read: nested too deep"
        ) from None


def _hub_rows(dataset: str, subset: str | None, split: str) -> Sequence[Row]:
    # Costs seconds, and a process that only scores does without.
    from datasets import load_dataset

    try:
        rows: Sequence[Row] = load_dataset(dataset, subset, split=split)
    except Exception as error:  # whatever the libraries beneath raise: it is reported
        raise ValueError(f"data set {dataset!r} can't be loaded: {one_line(error)}") from error
    return rows


def _not_there(dataset: str) -> str:
    path = Path(dataset).expanduser()
    looks_local = (
        dataset.startswith((".", "/", "~"))
        or _HUB_ID.fullmatch(dataset) is None
        or bool(_format(path))
        or (len(path.parts) > 1 and Path(path.parts[0]).is_dir())
    )
    if not looks_local:
        return ""
    names = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=1)
    hint = f"did you mean {path.parent / near[0]}?" if near else "give a file, or a hub id"
    return f"data set {dataset!r} is not there: {hint}"
