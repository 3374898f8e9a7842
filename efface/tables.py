"""Tab-separated tables: read strictly, read as they come, and write.

All cells are text. Strict reading is for tables that decide what is released: a malformed one is
rejected. Tables of a source are read as they come, because each cell may hold an identifier that
must be searched for.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.errors import EffaceError

if TYPE_CHECKING:
    import pandas as pd


def read(path: Path, columns: Sequence[str] = ()) -> pd.DataFrame:
    """Read a table strictly; rows are indexed by their line, rows without text are left out.

    ``columns`` must be there; others may be. Blanks around a cell are removed. Raises
    :class:`EffaceError` if the file cannot be read, is not UTF-8, has a quote without its partner,
    a row with more cells than the header, a column twice, or lacks one of ``columns``.
    """
    import pandas as pd

    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        raise EffaceError(f"{path}: the table cannot be read ({e})") from e
    try:
        # the header as a row: pandas then rejects longer rows and does not rename columns
        cells = _cells(text)
    except pd.errors.EmptyDataError:
        cells = pd.DataFrame([[""]])
    except pd.errors.ParserError as e:
        raise EffaceError(f"{path}: malformed table ({' '.join(str(e).split())})") from e
    cells = cells.apply(lambda column: column.str.strip())
    cells.index = pd.RangeIndex(1, len(cells) + 1, name="line")
    header = list(cells.iloc[0])
    missing = [name for name in columns if name not in header]
    if missing:
        raise EffaceError(f"{path}: needs the tab-separated columns {', '.join(columns)}")
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise EffaceError(f"{path}: column {', '.join(twice)} is there twice")
    rows = cells.iloc[1:].set_axis(header, axis="columns")
    return rows[(rows != "").any(axis="columns")]


def read_source(path: Path) -> list[dict[str, str]]:
    """Read a table of a source, whatever its form; empty if there is none.

    Bytes that are not UTF-8 are replaced. Cells beyond the header are left out.
    """
    import pandas as pd

    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        return []
    width = max(line.count("\t") for line in text.split("\n")) + 1
    try:
        cells = _cells(text, range(width))
    except pd.errors.EmptyDataError:
        return []
    except pd.errors.ParserError:  # a quote without its partner
        cells = _cells(text, range(width), csv.QUOTE_NONE)
    if cells.empty:
        return []
    header, *rows = cells.itertuples(index=False, name=None)
    return [
        {name: cell for name, cell in zip(header, row, strict=True) if name}
        for row in rows
        if any(row)
    ]


def _cells(
    text: str, names: Sequence[int] | None = None, quoting: int = csv.QUOTE_MINIMAL
) -> pd.DataFrame:
    import pandas as pd

    return pd.read_csv(
        io.StringIO(text),
        sep="\t",
        header=None,
        names=names,
        index_col=False,
        dtype=str,
        keep_default_na=False,
        skip_blank_lines=False,
        quoting=quoting,
    ).fillna("")


def text(rows: Iterable[Mapping[str, Any]] | pd.DataFrame, columns: Sequence[str]) -> str:
    """Tab-separated text with a header; tabs and line breaks in values become blanks."""
    import pandas as pd

    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows), columns=columns)
    flat = frame[list(columns)].map(lambda value: " ".join(str(value).split())).astype(object)
    return str(flat.to_csv(sep="\t", index=False, lineterminator="\n", quoting=csv.QUOTE_NONE))
