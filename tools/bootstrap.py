"""Builds `.venv` from the hashed lock, on a machine that has Python and nothing else.

Belongs here: the virtual environment, uv, the locked packages, the editable install. Does not: anything of the product
(this file runs before anything is installed, so it imports the standard library alone).

uv is fetched by pip under its own hashes and then installs the lock in seconds. Where uv has no wheel, or its resolver
cannot use this machine's indexes, pip installs the same files under the same hashes, in half a minute.
No index is ever named here: both tools use what the machine is configured for.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
import venv
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv"
BIN = ENVIRONMENT / "bin"
LOCK = ROOT / "requirements.lock"
UV_LOCK = ROOT / "tools" / "uv-requirements.txt"
STAMP = ENVIRONMENT / ".installed"
OLDEST_PYTHON = (3, 11)

# What pip calls a setting, and what uv calls it. uv does not read pip's files, so its answers would differ from pip's.
_UV_NAME_OF_PIP_SETTING = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "cert": "SSL_CERT_FILE",
}


def main() -> int:
    """Leave `.venv` as the lock describes it, plus this checkout in editable form; returns the exit status."""
    if sys.version_info < OLDEST_PYTHON:
        sys.stderr.write(f"Python {'.'.join(map(str, OLDEST_PYTHON))} or later is needed, this is {sys.version}\n")
        return 1
    if importlib.util.find_spec("ensurepip") is None:
        sys.stderr.write("this Python cannot make virtual environments: install its venv package (python3-venv)\n")
        return 1
    STAMP.unlink(missing_ok=True)
    if not _is_usable():
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
    if not _sync_with_uv():
        sys.stderr.write("uv cannot install the lock here: using pip\n")
        # The lock is complete; left to look at dependencies, pip would want hashes for `gql[requests]` beside `gql`.
        if not _pip("install", "--no-deps", "--require-hashes", "-r", str(LOCK)):
            return 1
    # hatchling is in the lock: without isolation the build needs no index.
    if not _pip("install", "--no-deps", "--no-build-isolation", "--editable", str(ROOT)):
        return 1
    STAMP.touch()
    return 0


def uv_environment(settings: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` plus pip's index settings under uv's names; a name the user has already set is left alone.

    Args:
        settings: pip's effective settings by bare name, e.g. `index-url`.
        environment: the process environment.
    """
    result = dict(environment)
    for pip_name, uv_name in _UV_NAME_OF_PIP_SETTING.items():
        if pip_name in settings:
            result.setdefault(uv_name, settings[pip_name])
    # pip takes a package from whichever index has it, uv from the first that knows the name. Every file's hash is
    # locked, so asking all of them is no risk.
    result.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
    return result


def parse_pip_settings(listing: str) -> dict[str, str]:
    """Settings by bare name from the output of `pip config list`; the environment outranks files.

    Each line reads `section.name='value'`, the value being a Python string literal.
    """
    found: dict[str, str] = {}
    for line in sorted(listing.splitlines(), key=lambda text: text.startswith(":env:")):
        key, separator, value = line.partition("=")
        if separator and key.split(".")[0] in ("global", "install", ":env:"):
            found[key.rpartition(".")[2]] = " ".join(str(ast.literal_eval(value)).split())
    return found


def _is_usable() -> bool:
    python = BIN / "python"
    if not python.exists():
        return False
    wanted = f"import pip, sys; sys.exit(sys.version_info < {OLDEST_PYTHON})"
    return subprocess.run([python, "-c", wanted], check=False, capture_output=True).returncode == 0


def _sync_with_uv() -> bool:
    if not _pip("install", "--only-binary=:all:", "--require-hashes", "-r", str(UV_LOCK)):
        return False
    python = str(BIN / "python")
    listing = subprocess.run([python, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True)
    sync = [python, "-m", "uv", "pip", "sync", "--quiet", "--require-hashes", "--python", python, str(LOCK)]
    environment = uv_environment(parse_pip_settings(listing.stdout), os.environ)
    return subprocess.run(sync, check=False, cwd=ROOT, env=environment).returncode == 0


def _pip(*arguments: str) -> bool:
    command = [str(BIN / "python"), "-m", "pip", "-qq", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, check=False, cwd=ROOT).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
