"""Real-time forecasts over HTTP: models are loaded on demand, within a budget of bytes. Knows no Dagster."""
