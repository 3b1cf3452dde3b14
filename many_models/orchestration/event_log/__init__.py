"""Dagster's event log: batches, history, retention, storages. Its private API is used here alone."""
