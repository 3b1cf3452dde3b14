"""`init` and `demo`: from an unknown table to many_models.toml."""
