"""Comparing an export over HTTP: the same document as the command line's, bounded, of one's own tenant."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

import pytest

from stripemeter_api.parity import MOST_COMPARED
from stripemeter_api.parity_documents import ParityAnswer
from tests.api.conftest import _Workers
from tests.api.serving import Api, Ingest

PATH = "/v1/parity/comparisons"
ROW = {"customer": "c1", "metric": "api_calls", "period": "2026-10"}


@pytest.fixture(scope="module")
def api(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A worker that may read one folder of an S3 where nobody answers."""
    with _Workers(tmp_path_factory.mktemp("api")) as workers:
        yield workers.start(
            DATABASE_URL=database_url,
            STRIPEMETER_BACKFILL_SOURCES="s3://bucket/in",
            AWS_ENDPOINT_URL="http://127.0.0.1:9",
            AWS_ACCESS_KEY_ID="x",
            AWS_SECRET_ACCESS_KEY="y",
        )


@pytest.fixture
def used(ingest: Ingest) -> None:
    """c1 used 0.3 in October."""
    ingest({"quantity": 0.3, "ts": "2026-10-05T00:00:00Z"})


def ask(api: Api, tenant: str, **members: object) -> dict[str, Any]:
    """The answer, as documented; its rows add up."""
    answer = api.post(PATH, json={"tenantId": tenant, **members})
    assert answer.status_code == 200, answer.text
    ParityAnswer.model_validate_json(answer.content)
    body: dict[str, Any] = answer.json()
    rows = dict(body["rows"])
    assert rows.pop("total") == sum(rows.values())
    return body


@pytest.mark.usefixtures("used")
def test_rows_and_csv_are_compared_exactly(api: Api, tenant: str) -> None:
    """A JSON number keeps its digits; a difference names its row; the period stands in."""
    assert ask(api, tenant, rows=[{**ROW, "quantity": 0.3}])["verdict"] == "equal"
    assert ask(api, tenant, csvData="kunde,metric,quantity\nc1,api_calls,0.3\n", period="2026-10",
               columns={"kunde": "customer"})["verdict"] == "equal"  # fmt: skip
    body = ask(api, tenant, rows=[{**ROW, "quantity": "0.31"}, {**ROW, "quantity": "much"}])
    assert body["verdict"] == "incomplete"
    (found,) = body["differences"]
    assert (found["lines"], found["quantity"]) == ([1], {"ours": "0.3", "theirs": "0.31", "difference": "-0.01"})
    assert [(row["line"], row["field"]) for row in body["unusable"]] == [(2, "quantity")]


@pytest.mark.usefixtures("used")
def test_another_tenants_usage_is_not_compared(api: Api, tenant: str) -> None:
    """Neither its numbers nor its rows: its customer is unknown, and what it has is not missed."""
    body = ask(api, "somebody-else", rows=[{**ROW, "quantity": 0.3}, {**ROW, "quantity": 0.3, "tenantId": tenant}])
    (found,) = body["differences"]
    assert (found["causes"], found["quantity"]["ours"]) == (["unknown_customer"], None)
    assert [row["field"] for row in body["unusable"]] == ["tenant"]


@pytest.mark.usefixtures("used")
def test_csv_and_html(api: Api, tenant: str) -> None:
    """Every item in a table; a page that loads nothing."""
    asked = {"tenantId": tenant, "rows": [{**ROW, "quantity": 0.3}]}
    table = api.post(PATH, params={"format": "csv"}, json=asked)
    assert table.headers["content-type"].startswith("text/csv")
    (row,) = csv.DictReader(io.StringIO(table.text))
    assert (row["status"], row["ours_quantity"], row["lines"]) == ("ok", "0.3", "1")
    page = api.post(PATH, params={"format": "html"}, json=asked)
    assert page.headers["content-type"].startswith("text/html")
    assert "equal" in page.text


def test_what_is_asked_is_bounded(api: Api, tenant: str) -> None:
    """One source, in an allowed folder, of bounded size; what cannot be read is refused with its member."""

    def refused(status: int = 400, **members: object) -> str:
        answer = api.post(PATH, json={"tenantId": tenant, **members})
        assert answer.status_code == status, answer.text
        return answer.text

    assert "exactly one of" in refused()
    assert "exactly one of" in refused(rows=[], csvData="a\n")
    assert "at most 5000" in refused(rows=[{}] * 5001)
    refused(413, rows=[{"x": "y" * 1_100_000}])
    many = "customer,metric,period,quantity\n" + "c,m,2026-10,1\n" * (MOST_COMPARED["usage"] + 1)
    assert "more than 20000 rows" in refused(csvData=many)
    assert "does not say its unit" in refused(
        kind="invoice", csvData="customer,metric,period,quantity,amount,currency\n"
    )
    assert "no rows" in refused(rows=[])
    assert "must be a month" in refused(rows=[], period="2026-1")
    refused(rows=[], unknown=1)
    refused(rows=[], columns={"x": "nonsense"})
    assert "s3://BUCKET/KEY" in refused(sourceUrl="/etc/passwd")
    assert "s3://BUCKET/KEY" in refused(sourceUrl="file:///etc/passwd.csv")
    assert "in no folder" in refused(sourceUrl="s3://bucket/out/x.csv")
    assert "in no folder" not in refused(503, sourceUrl="s3://bucket/in/x.csv")
