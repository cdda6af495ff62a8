"""Alarms: what happens when its time has come, by the emulator's clock or by a test clock.

Belongs here: in which order, and which function does it. Does not: what it does.

Nothing runs by itself: before each request, what should have happened by then happens, in order and at its instant.
"""

from __future__ import annotations

from stripe_emulator import billing, clocks, credit_ledger, payments
from stripe_emulator import invoice_documents as invoices
from stripe_emulator.calls import Call
from stripe_emulator.state import State


def catch_up(state: State, account: str, now: int, *, clock: str | None = None) -> None:
    """Everything that is to happen by now, on the emulator's clock or on a test clock; in the caller's transaction."""
    while (alarm := state.next_alarm(account, now, clock=clock or "")) is not None:
        kind, object_id, at = alarm
        call = Call(state=state, account=account, path="", path_parameters={}, parameters={}, now=at, clock=clock)
        call.set_alarm(kind, object_id, None)
        match kind:
            case billing.SUBSCRIPTION:
                billing.end_period(call, billing.subscription(call, object_id))
            case invoices.KIND:
                invoices.finalize_by_clock(call, object_id)
            case payments.ATTEMPT:
                payments.attempt_due(call, object_id)
            case clocks.KIND:
                clocks.arrive(call, object_id)
            case clocks.DELETION:
                clocks.remove(call, object_id)
            case credit_ledger.GRANT:
                credit_ledger.commit_expiry(call, object_id)
            case _:
                raise ValueError(f"nothing is known to happen to a {kind}")
