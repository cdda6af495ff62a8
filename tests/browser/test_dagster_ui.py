"""The Dagster UI in a real browser: it shows the pipeline, and asks nobody outside this machine for anything."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.stacks import Stack

pytestmark = [
    pytest.mark.stack,
    pytest.mark.browser,
    pytest.mark.xdist_group("stack"),
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # the driver's own pipes, closed at exit
]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


STAGES = {
    "events": "The ledger",
    "counters": "Usage: one row per tenant, customer, meter, UTC day and segment.",
    "pushes": "Stripe",
    "reconciliations": "Our total, what Stripe accepted, what Stripe sums up",
}
"""What each asset's page says it is."""


@pytest.fixture
def page() -> Iterator[Page]:
    """A page of a headless Chromium of this test's own."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield browser.new_page(viewport={"width": 1440, "height": 900})
        finally:
            browser.close()


def test_every_stage_has_its_page_without_any_other_host(stack: Stack, page: Page) -> None:
    """Events, counters, pushes and reconciliations say what they are; every request stays on loopback."""
    hosts: set[str | None] = set()
    page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
    dagster = stack.status()["urls"]["dagster"]
    for asset, says in STAGES.items():
        page.goto(f"{dagster}/assets/{asset}")
        expect(page.get_by_text(says).first).to_be_visible(timeout=60_000)
    page.goto(f"{dagster}/asset-groups")
    for group in ("ledger", "metering", "billing"):
        expect(page.get_by_text(group, exact=True).first).to_be_visible(timeout=60_000)
    assert hosts <= {"127.0.0.1", None}


def test_the_api_documentation_opens_without_any_other_host(stack: Stack, page: Page) -> None:
    """/docs renders the ingest route from files of our own."""
    hosts: set[str | None] = set()
    page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
    page.goto(f"{stack.api_url}/docs")
    expect(page.get_by_text("/v1/events/ingest").first).to_be_visible(timeout=60_000)
    assert hosts <= {"127.0.0.1", None}
