"""The soak, short: the shipped push ends with a difference of nothing, and each naive one is caught by it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.naive_push import VARIANTS

ROOT = Path(__file__).parents[2]
LAST_LINE = re.compile(r"faults (\d+), segments (\d+), difference ([0-9.]+)")


def soak(variant: str, *, seed: int, pushes: int) -> tuple[int, int, int, str]:
    """Exit code, faults, segments and difference of a soak."""
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "tests.faults.soak", "--variant", variant),
            *("--seed", str(seed), "--pushes", str(pushes), "--customers", "8"),
        ],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=290,
    )
    found = LAST_LINE.fullmatch(finished.stdout.splitlines()[-1]) if finished.stdout else None
    assert found is not None, finished.stdout + finished.stderr
    return finished.returncode, int(found[1]), int(found[2]), found[3]


@pytest.mark.timeout(300)
def test_after_everything_went_wrong_the_difference_is_nothing() -> None:
    """Faults, kills and days at random; then our totals and Stripe's are the same, to the last digit."""
    code, faults, segments, difference = soak("product", seed=1, pushes=30)
    assert (code, difference) == (0, "0")
    assert faults > 20
    assert segments > 5


@pytest.mark.timeout(300)
@pytest.mark.parametrize("variant", [variant for variant in VARIANTS if variant != "product"])
def test_a_naive_push_is_caught(variant: str) -> None:
    """The same world finds what is wrong with a push that is nearly right."""
    # What resending blindly does wrong needs a day to pass over a row in flight: that is rarer.
    code, _, segments, difference = soak(variant, seed=2, pushes=90 if variant == "blind-resend" else 30)
    assert code == 1
    assert segments > 0
    assert difference != "0"
