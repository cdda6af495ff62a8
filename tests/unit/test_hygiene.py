"""What no file of the repository may hold: where it was made, where packages came from, and anybody's secrets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools.lints.source import list_files

ROOT = Path(__file__).resolve().parents[2]

# Built from halves, so that this file does not hold what it looks for.
_REGISTRIES = ("pypi" + r"\.org", "python" + "hosted", "npm" + r"js\.(?:com|org)", "debian" + r"\.org", "yarn" + "pkg")
_HOMES = ("ro" + "ot", r"home/\w+", r"Users/\w+", "wo" + "rk", "fa" + "rm")
_SECRETS = ("sk_" + "live_", "rk_" + "live_", "pk_" + "live_", "wh" + "sec_")

FORBIDDEN = {
    "the host of a package registry": re.compile("|".join(_REGISTRIES)),
    "a path of one machine": re.compile(r"(?<![\w./~:$}{*-])/(?:" + "|".join(_HOMES) + ")/"),
    "a live key of Stripe": re.compile(r"\b(?:" + "|".join(_SECRETS) + r")[0-9A-Za-z]{16,}"),
    "a private key": re.compile("BEGIN [A-Z ]*" + "PRIVATE KEY"),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_holds(what: str) -> None:
    """Nothing in the repository names a package host, a path of one machine, or a secret."""
    found = []
    for path in list_files(ROOT):
        text = path.read_text(encoding="utf-8", errors="ignore")
        for match in FORBIDDEN[what].finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            found.append(f"{path.relative_to(ROOT)}:{line}: {match[0]}")
    assert not found, f"{what}:\n" + "\n".join(found[:20])


@pytest.mark.parametrize(
    ("what", "planted"),
    [
        ("the host of a package registry", "--index-url https://pypi" + ".org/simple"),
        ("the host of a package registry", '"resolved": "https://registry.npm' + 'js.org/x"'),
        ("a path of one machine", 'open("/ro' + 'ot/x")'),
        ("a path of one machine", "see /home/" + "anna/notes"),
        ("a live key of Stripe", "STRIPE_SECRET_KEY=sk_" + "live_" + "a1" * 12),
        ("a live key of Stripe", "wh" + "sec_" + "b2" * 16),
        ("a private key", "-----BEGIN RSA " + "PRIVATE KEY-----"),
    ],
)
def test_a_planted_leak_is_seen(what: str, planted: str) -> None:
    """Each pattern finds what it is there for."""
    assert FORBIDDEN[what].search(planted)


@pytest.mark.parametrize(
    ("what", "harmless"),
    [
        ("a path of one machine", "GET /v1/home/" + "x/y and ~/work/" + "x"),
        ("a live key of Stripe", "sk_" + "live_... and sk_test_" + "a1" * 12),
        ("the host of a package registry", "https://example.org/simple"),
    ],
)
def test_a_harmless_line_passes(what: str, harmless: str) -> None:
    """A route, a test key and an example's host are not leaks."""
    assert not FORBIDDEN[what].search(harmless)


def test_the_lock_names_no_index() -> None:
    """Every pin carries hashes, and no line says where a package comes from."""
    for name in ("requirements.lock", "tools/uv-requirements.txt"):
        text = (ROOT / name).read_text(encoding="utf-8")
        pins = re.findall(r"^[a-z0-9][\w.-]*==.*$", text, re.MULTILINE)
        assert pins
        assert all(pin.endswith("\\") for pin in pins), f"{name}: a pin without a hash"
        assert not re.search(r"^\s*-|://", text.replace("--hash", ""), re.MULTILINE), f"{name}: an option or a URL"
