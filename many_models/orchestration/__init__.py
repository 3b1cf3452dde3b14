"""Everything that knows Dagster, apart from operations and definitions."""
