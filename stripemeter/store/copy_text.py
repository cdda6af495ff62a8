"""Frames as text that Postgres' COPY reads.

Belongs here: the form of a value in that text. Does not: where it is copied to.
"""

from __future__ import annotations

from functools import reduce

import polars as pl

_ESCAPES = (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r"))
"""What COPY's text format reads as something else, the escape character first."""


def as_copy_text(frame: pl.DataFrame) -> str:
    r"""The frame in COPY's text format.

    Not as CSV: before version 18 a quoted line that is only `\\.` ends a CSV copy, and a name may hold one.
    """
    escaped = frame.with_columns(
        reduce(lambda text, pair: text.str.replace_all(*pair, literal=True), _ESCAPES, pl.col(pl.String))
    )
    return escaped.write_csv(
        include_header=False,
        separator="\t",
        quote_style="never",
        null_value="\\N",
        datetime_format="%Y-%m-%dT%H:%M:%S%.6fZ",
    )
