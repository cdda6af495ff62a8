"""The pictures in `docs/screenshots`, taken anew: `make screenshots`.

Belongs here: one story in a stack of its own, and what is photographed of it. Does not: assertions (`test_dagster_ui`).

Usage of three customers reaches Stripe and the reconciliation passes; then somebody else reports usage of one of them
to the same Stripe meter, and the reconciliation fails.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
from playwright.sync_api import Page, sync_playwright

from tests.stacks import Stack, is_folded, running_stack, wait_until

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
SETTLED_MILLISECONDS = 2_500
"""Dagster's pages draw themselves after they are loaded, and say nowhere when they have."""
EXPANDED = "%2C".join(f"global%40global%3A{group}" for group in ("ledger", "metering", "pricing", "billing"))
"""How Dagster's address names the groups whose assets are shown."""
NOON = (datetime.now(UTC) - timedelta(days=1)).replace(hour=12, minute=0, second=0, microsecond=0)
CUSTOMERS = {"ada": 1200, "bob": 340, "eve": 75}


def take(directory: Path) -> None:
    """Every picture, into `directory`."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("Chromium is not installed: apt-get install chromium")
    directory.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="stripemeter-screenshots-") as home,
        running_stack(Path(home)) as stack,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1680, "height": 900})
        dagster = str(stack.status()["urls"]["dagster"])
        use(stack)
        reconcile(stack)
        photograph(page, f"{dagster}/asset-groups/?expanded={EXPANDED}", directory / "asset-graph.png")
        photograph(page, f"{dagster}/assets/reconciliations?view=checks", directory / "reconciliation-passing.png")
        write_foreign(stack)
        reconcile(stack)
        photograph(page, f"{dagster}/assets/reconciliations?view=checks", directory / "reconciliation-failing.png")
        report = max(Path(home).rglob("reports/*.html"), key=lambda file: file.stat().st_mtime)
        photograph(page, report.as_uri(), directory / "reconciliation-report.png")
        browser.close()


def use(stack: Stack) -> None:
    """Yesterday's usage, counted, mapped and at Stripe."""
    events = [
        {
            "tenantId": "acme",
            "metric": "requests",
            "customerRef": customer,
            "quantity": quantity,
            "ts": NOON.isoformat(),
            "idempotencyKey": f"{customer}-1",
        }
        for customer, quantity in CUSTOMERS.items()
    ]
    httpx2.post(f"{stack.api_url}/v1/events/ingest", json={"events": events}).raise_for_status()
    wait_until(lambda: is_folded(stack.api_url), "the events to be counted")
    stack.cli("stripe", "map", "requests", "--tenant", "acme")
    for customer in CUSTOMERS:
        stack.cli("stripe", "bind", customer, "--tenant", "acme")
    stack.cli("push", "apply", "--yes")


def write_foreign(stack: Stack) -> None:
    """Another writer of the account reports usage of ada's."""
    status = json.loads(stack.cli("stripe", "status", "--json").stdout)
    (mapping,) = status["mappings"]
    ada = next(binding for binding in status["bindings"] if binding["customer_ref"] == "ada")
    event = {
        "account": mapping["stripe_account_id"],
        "event_name": mapping["stripe_event_name"],
        "timestamp": int(NOON.timestamp()),
        "payload": {"stripe_customer_id": ada["stripe_customer_id"], "value": "250"},
    }
    emulator = stack.status()["urls"]["emulator"]
    httpx2.post(f"{emulator}/_emu/foreign_event", json=event).raise_for_status()


def reconcile(stack: Stack) -> None:
    """Ask for a reconciliation over HTTP, and wait until Dagster has made it."""
    asked = httpx2.post(f"{stack.api_url}/v1/reconciliation/run", json={"tenantId": "acme"}).raise_for_status()
    url = f"{stack.api_url}/v1/reconciliation/runs/{asked.json()['jobId']}"

    def is_over() -> bool:
        return bool(httpx2.get(url, params={"tenantId": "acme"}).raise_for_status().json()["status"] == "completed")

    wait_until(is_over, "the reconciliation")
    # The check is evaluated by the same run, after its asset.
    wait_until(lambda: not _is_running(stack), "its check")


def photograph(page: Page, url: str, file: Path) -> None:
    """One page as an operator sees it."""
    page.goto(url, wait_until="networkidle")
    page.wait_for_timeout(SETTLED_MILLISECONDS)
    page.screenshot(path=file)
    sys.stdout.write(f"{file}\n")


def _is_running(stack: Stack) -> bool:
    query = "{ runsOrError(filter: {statuses: [QUEUED, NOT_STARTED, STARTING, STARTED]}) { ... on Runs { count } } }"
    answer = httpx2.post(f"{stack.status()['urls']['dagster']}/graphql", json={"query": query}).raise_for_status()
    return bool(answer.json()["data"]["runsOrError"]["count"])


if __name__ == "__main__":
    take(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/screenshots"))
