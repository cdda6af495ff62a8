"""I/O with Postgres: one module per table family, SQL from `sql/queries`, and the migrations runner."""
