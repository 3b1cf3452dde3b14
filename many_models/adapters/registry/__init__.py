"""Implementations of the registry ports: MLflow and memory."""
