"""Pushing rows: plan, claim, send, settle, until the targets lack nothing.

Belongs here: the protocol of the rows of some (Stripe meter, customer), many at a time, with a transaction around each
step. Does not: choosing customers (`pipeline.push`), what comes of one row's answer (`pipeline.push_row`), reading back
old rows (`pipeline.push_probe`).

    plan    rows with the delta, its minute and its identifier, committed before anything is sent
    claim   the rows are `sending` and ours for LEASE, committed before their first byte
    send    each on its own (`pipeline.push_row`) or many in one request (`pipeline.push_batch`); of a target one row is
            in flight
    settle  what was acknowledged is written down together

Steps of many rows share a commit; no row waits for another's answer. A process that dies anywhere leaves rows that the
next push finds and sends again under the same identifiers; Stripe takes each once.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from queue import Empty, SimpleQueue

from stripemeter.errors import StripeMeterError, Unavailable
from stripemeter.metering.deltas import RETRY_WINDOW, STAMP_WINDOW
from stripemeter.pipeline.push_batch import ClaimedRow, deliver_batch
from stripemeter.pipeline.push_plan import TargetPlan, plan_targets
from stripemeter.pipeline.push_row import LEASE, Claim, Delivered, Outcome, Pushed, PushRun, deliver, probe, pushed
from stripemeter.store import push_entries, push_epochs
from stripemeter.store.postgres import transaction
from stripemeter.store.push_entries import Arrival, PushEntry, PushTarget

PLANNED_TOGETHER = 200
"""Targets of one planning transaction."""
CLAIMED_PER_WORKER = 25
"""Rows that wait, claimed, for each sender: enough to share commits, few enough to be sent inside their lease.

Measured: 8, 16 and 25 reach 0.68, 0.71 and 0.73 of the pace of a loop that remembers nothing."""
SETTLE_WITHIN_SECONDS = 0.1  # allow-float: seconds
"""How long an acknowledged row waits for others to be written down with it."""
STALE = "never sent, and now too old for Stripe"
WAITS = "waits for a free whole minute of the day inside its segment"


def push_targets(run: PushRun, targets: Sequence[PushTarget], *, max_workers: int) -> list[Pushed]:
    """Everything these targets lack; a target ends at its first row that does not get through."""
    window = max_workers * max(CLAIMED_PER_WORKER, run.sink.batch_size)
    with ThreadPoolExecutor(max_workers=max_workers, thread_name_prefix="push") as workers:
        return _Push(run, targets, workers, window=window).work()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    plan: TargetPlan
    delivered: Delivered


class _Push:
    """One thread that plans, claims and settles, and the senders it feeds."""

    def __init__(
        self, run: PushRun, targets: Iterable[PushTarget], workers: ThreadPoolExecutor, *, window: int
    ) -> None:
        self._run = run
        self._workers = workers
        self._window = window
        self._todo = deque(targets)
        self._ready: deque[TargetPlan] = deque()
        self._under_way = 0
        self._answers: SimpleQueue[Future[list[_Answer]]] = SimpleQueue()
        self._results: list[Pushed] = []

    def work(self) -> list[Pushed]:
        """Until nothing is left to do, or the run is stopped and everything under way has ended."""
        while self._under_way or ((self._todo or self._ready) and not self._run.stopped):
            if not self._run.stopped and self._under_way <= self._window // 2:
                if self._todo and len(self._ready) < self._window:
                    self._plan([self._todo.popleft() for _ in range(min(PLANNED_TOGETHER, len(self._todo)))])
                self._start()
            if self._under_way:
                self._settle(self._next_answers())
        return self._results

    def _plan(self, targets: Sequence[PushTarget]) -> None:
        now = self._run.clock()
        try:
            with transaction(self._run.pool) as tx:
                plans = plan_targets(tx, targets, now=now)
        except Unavailable as error:
            self._run.stop(str(error))
            self._results += [pushed(target, None, "unsettled", str(error)) for target in targets]
            return
        except StripeMeterError as error:
            # One customer's trouble, our tables' included, is not another's.
            if len(targets) == 1:
                self._results.append(pushed(targets[0], None, "unsettled", str(error)))
            else:
                for target in targets:
                    self._plan([target])
            return
        for plan in plans:
            if plan.entry is not None and not _is_due(plan.entry, now):
                self._results.append(pushed(plan.target, plan.entry, "unsettled", "in flight elsewhere"))
            elif plan.entry is not None:
                self._ready.append(plan)
            else:
                self._results += [
                    Pushed(
                        target=plan.target,
                        day=day.day,
                        delta=day.counted - day.planned,
                        outcome="waiting",
                        reason=WAITS,
                    )
                    for day in plan.waiting
                ]

    def _start(self) -> None:
        """Claim what there is room for, and hand it to the senders."""
        now = self._run.clock()
        room = min(self._window - self._under_way, len(self._ready))
        plans = [self._ready.popleft() for _ in range(room)]
        fresh: list[tuple[TargetPlan, PushEntry]] = []
        for plan in plans:
            if plan.entry is None:
                continue
            if plan.entry.first_attempt_at is not None and now >= plan.entry.first_attempt_at + RETRY_WINDOW:
                self._probe(plan, plan.entry)
            else:
                fresh.append((plan, plan.entry))
        try:
            self._claim(fresh, now)
        except StripeMeterError as error:
            self._run.stop(str(error))
            self._results += [pushed(plan.target, entry, "unsettled", str(error)) for plan, entry in fresh]

    def _claim(self, fresh: Sequence[tuple[TargetPlan, PushEntry]], now: datetime) -> None:
        oldest = now - STAMP_WINDOW
        stale = [plan for plan, entry in fresh if entry.state == "planned" and entry.stamped_at < oldest]
        usable = [(plan, entry) for plan, entry in fresh if entry.state != "planned" or entry.stamped_at >= oldest]
        until = now + LEASE
        with transaction(self._run.pool) as tx:
            for plan in stale:
                if plan.entry is not None:
                    push_entries.settle_cancelled(tx, plan.entry.id, now=now, error_message=STALE)
            ids = [entry.id for _, entry in usable]
            epoch = push_epochs.require_open(tx).epoch
            claimed = push_entries.claim(tx, ids, now=now, lease_until=until) if ids else {}
        if self._run.witness is not None and claimed:
            self._run.witness.record(epoch, [entry.identifier for _, entry in usable if entry.id in claimed])
        self._todo += [plan.target for plan in stale]
        rows: list[tuple[TargetPlan, ClaimedRow]] = []
        for plan, entry in usable:
            if entry.id in claimed:
                attempt, key_no = claimed[entry.id]
                claim = Claim(attempt=attempt, key_no=key_no, lease_until=until)
                rows.append((plan, ClaimedRow(target=plan.target, entry=entry, claim=claim)))
            else:
                self._results.append(pushed(plan.target, entry, "unsettled", "somebody else sends it"))
        for start in range(0, len(rows), self._run.sink.batch_size):
            self._submit(rows[start : start + self._run.sink.batch_size])

    def _probe(self, plan: TargetPlan, entry: PushEntry) -> None:
        def read_back() -> list[_Answer]:
            try:
                delivered = probe(self._run, plan.target, entry)
            except StripeMeterError as error:
                delivered = pushed(plan.target, entry, "unsettled", str(error))
            return [_Answer(plan=plan, delivered=delivered)]

        self._under_way += 1
        self._workers.submit(read_back).add_done_callback(self._answers.put)

    def _submit(self, rows: Sequence[tuple[TargetPlan, ClaimedRow]]) -> None:
        def send() -> list[_Answer]:
            delivered: Sequence[Delivered]
            try:
                if self._run.sink.batch_size > 1:
                    delivered = deliver_batch(self._run, [row for _, row in rows])
                else:
                    delivered = [deliver(self._run, row.target, row.entry, row.claim) for _, row in rows]
            except StripeMeterError as error:
                delivered = [pushed(row.target, row.entry, "unsettled", str(error)) for _, row in rows]
            return [_Answer(plan=plan, delivered=one) for (plan, _), one in zip(rows, delivered, strict=True)]

        self._under_way += len(rows)
        self._workers.submit(send).add_done_callback(self._answers.put)

    def _next_answers(self) -> list[_Answer]:
        """At least one; half a window where so many come soon."""
        found = self._answers.get().result()
        until = time.monotonic() + SETTLE_WITHIN_SECONDS
        while len(found) < min(self._window // 2, self._under_way):
            try:
                found += self._answers.get(timeout=max(0, until - time.monotonic())).result()
            except Empty:
                break
        return found

    def _settle(self, answers: Sequence[_Answer]) -> None:
        self._under_way -= len(answers)
        arrived = [(answer.plan, answer.delivered) for answer in answers if isinstance(answer.delivered, Arrival)]
        self._write_down(arrived)
        for answer in answers:
            if answer.delivered is None:
                self._todo.append(answer.plan.target)
            elif isinstance(answer.delivered, Pushed):
                self._results.append(answer.delivered)

    def _write_down(self, arrived: Sequence[tuple[TargetPlan, Arrival]]) -> None:
        if not arrived:
            return
        try:
            with transaction(self._run.pool) as tx:
                push_entries.settle_accepted(tx, [arrival for _, arrival in arrived], now=self._run.clock())
        except StripeMeterError as error:
            # They stay in flight, and Stripe refuses them the second time: the next push learns that they arrived.
            self._results += [pushed(plan.target, plan.entry, "unsettled", str(error)) for plan, _ in arrived]
            return
        for plan, arrival in arrived:
            outcome: Outcome = "already_accepted" if arrival.is_already_accepted else "accepted"
            self._results.append(pushed(plan.target, plan.entry, outcome, ""))
            if plan.has_more:
                self._todo.append(plan.target)


def _is_due(entry: PushEntry, now: datetime) -> bool:
    return all(until is None or until <= now for until in (entry.lease_until, entry.next_attempt_at))
