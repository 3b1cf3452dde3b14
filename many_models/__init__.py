"""One forecasting model for every store-item, kept fresh daily, on Dagster."""
