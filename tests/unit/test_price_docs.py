"""What the README and docs/pricing.md show of prices is what comes out."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"```python\n(?P<code>[^`]*stripemeter\.pricing[^`]*)```(?:\n\n```text\n(?P<shown>[^`]*)```)?")


@pytest.mark.parametrize("page", ["README.md", "docs/pricing.md"])
def test_a_page_shows_what_its_code_prints(page: str) -> None:
    """The code runs as printed; its output is the block below it, or the comment at the end of its last line."""
    blocks = list(BLOCK.finditer((ROOT / page).read_text(encoding="utf-8")))
    assert len(blocks) == 1
    shown = blocks[0]["shown"] or blocks[0]["code"].rstrip().rpartition("# ")[2]
    printed = subprocess.run([sys.executable, "-c", blocks[0]["code"]], check=True, capture_output=True, text=True)
    assert printed.stdout.strip() == shown.strip()
