"""Implementations of the source and ingestion ports: databases, memory, Data Factory."""
