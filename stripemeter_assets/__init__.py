"""Dagster glue: what an operator sees and what triggers what. Counting, pushing and proving are `stripemeter.pipeline`."""
