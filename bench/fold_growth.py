"""fold-growth: what a fold of new events costs in a big ledger, beside the same in a ledger a tenth of it.

Belongs here: this bench. Does not: filling ledgers (`ledger`).

Both have as many events, customers and counters on a day: the small one is the last days of such a ledger. So both
folds merge into equally many counters, and only what lies around them differs.
"""

from __future__ import annotations

from psycopg_pool import ConnectionPool

from bench.context import Context, say
from bench.ledger import LAST_DAY, fill, fold_exactly, fold_rest
from bench.measure import Row, at_most, seconds_of, series
from stripemeter.store.postgres import open_pool


def fold_growth(context: Context) -> list[Row]:
    """Fold some fresh on-time events of the last day into both, in turn."""
    scale = context.scale
    small, big = scale.small_ledger, scale.ledger
    seconds: dict[tuple[int, int], list[float]] = {}
    touched: dict[tuple[int, int], list[float]] = {}
    with context.copied(small) as small_url, context.copied(big) as big_url:
        urls = {small.rows: small_url, big.rows: big_url}
        with open_pool(small_url) as small_pool, open_pool(big_url) as big_pool:
            pools = {small.rows: small_pool, big.rows: big_pool}
            for number in range(scale.rounds + 1):
                for events in scale.fold_events:
                    for rows in (small.rows, big.rows):
                        took, counters = _fold(pools[rows], urls[rows], events, scale.customers)
                        if number:  # the first is the warm-up: a copied database is in no cache
                            seconds.setdefault((events, rows), []).append(took)
                            touched.setdefault((events, rows), []).append(counters)
                            say(f"fold-growth: {events:,} into {rows:,}: {took * 1000:.0f} ms, {counters:,} counters")
    return [
        Row(
            bench="fold-growth",
            what=f"fold {events:,} on-time events into a ledger of {big.rows:,}",
            unit="s",
            system=series(seconds[events, big.rows]),
            limit=series(seconds[events, small.rows]),
            limit_name=f"into a ledger of {small.rows:,}",
            budget=at_most(1.3),
            note="each fold in one transaction; as many events, customers and counters a day in both ledgers, "
            f"{len(big.days)} days against {len(small.days)}",
        )
        for events in scale.fold_events
    ] + [
        Row(
            bench="fold-growth",
            what=f"counters a fold of {events:,} merges into, ledger of {big.rows:,}",
            unit="counters",
            system=series(touched[events, big.rows]),
            limit=series(touched[events, small.rows]),
            limit_name=f"ledger of {small.rows:,}",
        )
        for events in scale.fold_events
    ]


def _fold(pool: ConnectionPool, url: str, events: int, customers: int) -> tuple[float, int]:
    """Seconds of one fold of fresh events, and how many counters it merged into."""
    fold_rest(pool)
    fill(url, rows=events, customers=customers, first=LAST_DAY, days=1, is_order_random=True)
    merged: list[int] = []

    def measured() -> None:
        (day,) = fold_exactly(pool, events).days
        if day.late_events:
            raise AssertionError(f"{day.late_events} of {events} events are late")
        merged.append(day.counters)

    return seconds_of(measured), merged[0]
