"""How Hypothesis runs: the same examples everywhere, a blob to reproduce a failure, no deadlines."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "stripemeter",
    derandomize=True,
    print_blob=True,
    deadline=None,
    database=None,
    # One database serves all examples of a test: each example has tenants of its own, so nothing leaks between them.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("stripemeter")
