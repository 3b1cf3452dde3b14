"""The board: pages for people. Knows no Dagster: what it does and what it asks of Dagster is handed in."""
