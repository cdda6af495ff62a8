"""Stripe's own command line (written in Go): a second client of the emulator that shares nothing with the first.

Belongs here: getting it, running it on loopback. Does not: what is asked with it (`test_official_cli.py`).
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

VERSION = "1.52.0"
PACKAGE = f"@stripe/cli-linux-x64@{VERSION}"
PACKAGE_SHA256 = "d33e5a776f0320454e710391cc66693a39d1d9128928f9a4271c58615bef2119"
PATIENCE_SECONDS = 120
NOWHERE = "http://127.0.0.1:9"
"""A proxy that is not there: whatever the client wants from a network fails, loopback needs no proxy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OfficialCli:
    """The program, an emulator's address and a key."""

    program: Path
    url: str
    key: str
    home: Path

    def run(self, *words: str) -> Any:  # noqa: ANN401 - any JSON
        """The JSON that a command answers, an error's too."""
        done = self._run(*words, "--api-base", self.url)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def play(self, steps: list[dict[str, Any]]) -> None:
        """Requests one after the other, each may use the answers before it (`${name:path}`)."""
        file = self.home / "fixture.json"
        file.write_text(json.dumps({"_meta": {"template_version": 0}, "fixtures": steps}), encoding="utf-8")
        done = self._run("fixtures", str(file), "--api-base", self.url)
        assert done.returncode == 0, done.stderr

    def _run(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "XDG_CONFIG_HOME": str(self.home),
            "HTTPS_PROXY": NOWHERE,
            "STRIPE_API_KEY": self.key,
            "STRIPE_CLI_TELEMETRY_OPTOUT": "1",
        }
        return subprocess.run(
            [str(self.program), *words],
            env=environment,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )


def find_program(cache: Path) -> Path:
    """The program: STRIPE_CLI names it, or it was fetched before, or it is fetched now; else the test is skipped."""
    if named := os.environ.get("STRIPE_CLI"):
        return Path(named)
    program = cache / f"stripe-{VERSION}"
    if not program.exists():
        _fetch(cache, program)
    return program


def _fetch(cache: Path, program: Path) -> None:
    npm = shutil.which("npm")
    if npm is None or (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        pytest.skip("Stripe's CLI: name it in STRIPE_CLI (it is fetched by npm on Linux x86-64 only)")
    # A folder of its own: another worker may be fetching it, too.
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        try:
            done = subprocess.run(
                [npm, "pack", PACKAGE, "--silent", "--pack-destination", folder],
                capture_output=True,
                text=True,
                check=False,
                timeout=PATIENCE_SECONDS,
            )
        except subprocess.TimeoutExpired:
            pytest.skip(f"Stripe's CLI: {PACKAGE} not fetched within {PATIENCE_SECONDS} s; name it in STRIPE_CLI")
        if done.returncode != 0:
            pytest.skip(f"Stripe's CLI: {PACKAGE} could not be fetched; name it in STRIPE_CLI")
        archive = Path(folder) / done.stdout.split()[-1]
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        assert digest == PACKAGE_SHA256, f"{PACKAGE} is not the one whose hash is written down: {digest}"
        fresh = Path(folder) / "stripe"
        with tarfile.open(archive) as packed:
            member = packed.extractfile("package/bin/stripe")
            assert member is not None
            fresh.write_bytes(member.read())
        fresh.chmod(0o755)
        fresh.replace(program)
