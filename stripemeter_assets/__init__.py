"""Dagster glue: what an operator sees and what triggers what. The verbs are `stripemeter.pipeline`'s."""
