"""`stripemeter sim`: scenarios: are they right, what comes of them, what differs from what they expect.

Belongs here: options, files, exit statuses. Does not: scenarios and runs (`stripemeter.simulation`).

Exit status: 0 as expected, 1 a difference, 2 something that cannot be used.
"""

from __future__ import annotations

import json
import sys
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from stripemeter.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stripemeter.simulation.reports import Judged
    from stripemeter.simulation.running import Progress

app = typer.Typer(help="Play scenarios of billing on a clock of their own.", no_args_is_help=True)

_SUFFIXES = (".sim.json", ".sim.yaml", ".sim.yml")
_UNUSABLE = 2

_FILE = Annotated[
    list[Path] | None, typer.Option("--scenario", help="A *.sim.json|yaml|yml file; repeatable.", show_default=False)
]
_FOLDER = Annotated[
    Path | None, typer.Option("--dir", help="A folder: every scenario in it and below.", show_default=False)
]


@app.command("validate")
def validate(scenario: _FILE = None, folder: _FOLDER = None) -> None:
    """Say of each scenario whether it can be right. Exit 2: one cannot."""
    from stripemeter.simulation.scenarios import read_scenario

    is_unusable = False
    for path, _ in _files(scenario, folder):
        try:
            typer.echo(f"valid  {path}: {read_scenario(_read(path)).name}")
        except InvalidInput as error:
            is_unusable = True
            typer.echo(f"error  {path}: {error}")
    if is_unusable:
        raise typer.Exit(_UNUSABLE)


@app.command("run")
def run(
    scenario: _FILE = None,
    folder: _FOLDER = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Of what is drawn, instead of the scenario's own.", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of the results, <name>.result.json.")] = Path("results"),
    *,
    billing: Annotated[
        bool, typer.Option("--billing", help="Play on Stripe's test clocks too, and compare the invoices.")
    ] = False,
) -> None:
    """Play scenarios and write down what was seen. Exit 1: something is not as expected. 2: one cannot be played."""
    if billing:
        from stripemeter.cli.sim_billing import run_on_stripe

        run_on_stripe([(path, out / result, _read) for path, result in _files(scenario, folder)], seed, _progress)
        return
    from stripemeter.simulation.report_pages import render_table
    from stripemeter.simulation.reports import Judged
    from stripemeter.simulation.running import run_scenario
    from stripemeter.simulation.scenarios import read_scenario

    files = _files(scenario, folder)
    judged: list[Judged] = []
    for number, (path, result) in enumerate(files, start=1):
        try:
            done = run_scenario(read_scenario(_read(path)), seed, _progress(f"{number} of {len(files)}: {path}"))
        except InvalidInput as error:
            judged.append(Judged(scenario=str(path), error=str(error)))
        else:
            target = out / result
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(json.dumps(done.to_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            judged.append(
                Judged(scenario=done.scenario, seed=done.seed, assertions=done.assertions, invoices=done.invoices)
            )
    typer.echo(render_table(judged), nl=False)
    _leave(judged, is_strict=True)


@app.command("report")
def report(
    scenario: _FILE = None,
    folder: _FOLDER = None,
    results: Annotated[Path, typer.Option("--results", help="Folder of the results.")] = Path("results"),
    form: Annotated[Literal["table", "json", "md", "html"], typer.Option("--format", help="How it looks.")] = "table",
    out: Annotated[Path | None, typer.Option("--out", help="File to write; else it is printed.")] = None,
    *,
    fail_on_diff: Annotated[bool, typer.Option("--fail-on-diff", help="Exit 1 when something differs.")] = False,
) -> None:
    """Compare what was seen with what the scenarios expect now. Exit 2: one has no result, or one of another story."""
    from stripemeter.simulation.report_pages import render_markdown, render_page, render_table
    from stripemeter.simulation.reports import Judged, judge_record, report_document
    from stripemeter.simulation.scenarios import read_scenario

    judged: list[Judged] = []
    for path, result in _files(scenario, folder):
        try:
            judged.append(judge_record(read_scenario(_read(path)), _read(results / result)))
        except InvalidInput as error:
            judged.append(Judged(scenario=str(path), error=str(error)))
    match form:
        case "table":
            text = render_table(judged)
        case "json":
            text = json.dumps(report_document(judged), indent=2, ensure_ascii=False) + "\n"
        case "md":
            text = render_markdown(judged)
        case "html":
            text = render_page(judged)
    if out is None:
        typer.echo(text, nl=False)
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    _leave(judged, is_strict=fail_on_diff)


def _files(scenarios: Sequence[Path] | None, folder: Path | None) -> list[tuple[Path, Path]]:
    """Each scenario's file and its result's, below the folder of results."""
    if (not scenarios) == (folder is None):
        raise typer.BadParameter("needs either --scenario or --dir")
    if folder is None:
        found = [(path, Path(path.name)) for path in scenarios or ()]
    else:
        found = [(path, path.relative_to(folder)) for path in sorted(folder.rglob("*.sim.*")) if _stem(path)]
    if not found:
        raise typer.BadParameter(
            f"{folder} has no scenario in it: no {', '.join('*' + suffix for suffix in _SUFFIXES)}"
        )
    files = [(path, below.with_name(f"{_stem(path) or path.name}.result.json")) for path, below in found]
    taken: dict[Path, Path] = {}
    for path, result in files:
        if result in taken:
            raise typer.BadParameter(f"{taken[result]} and {path} would have one result, {result}")
        taken[result] = path
    return files


def _stem(path: Path) -> str:
    return next((path.name.removesuffix(suffix) for suffix in _SUFFIXES if path.name.endswith(suffix)), "")


def _read(path: Path) -> Mapping[str, object]:
    """The document of a file; its numbers exactly."""
    if path.suffix != ".json":
        from stripemeter.cli.yaml_files import read_yaml

        return read_yaml(path)  # type: ignore[no-any-return] # what it is, is asked next
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text, parse_float=Decimal, object_pairs_hook=_once)  # type: ignore[no-any-return]
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInput(f"{path} cannot be read as JSON: {error}", field="file") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            raise ValueError(f"{name!r} stands twice")
        members[name] = value
    return members


def _progress(title: str) -> Progress | None:
    if not sys.stderr.isatty():
        return None

    def show(done: int, of: int) -> None:
        typer.echo(f"\r{title} {100 * done // of} %\033[K", err=True, nl=False)
        if done == of:
            typer.echo("\r\033[K", err=True, nl=False)

    return show


def _leave(judged: Sequence[Judged], *, is_strict: bool) -> None:
    if any(each.error is not None for each in judged):
        raise typer.Exit(_UNUSABLE)
    if is_strict and not all(each.is_ok for each in judged):
        raise typer.Exit(1)
