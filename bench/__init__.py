"""The bench: limit and system side by side, measured interleaved in one run. Timings are never tests."""
