"""The `stripemeter` command. Never imports Dagster, FastAPI or Polars at the top level."""
