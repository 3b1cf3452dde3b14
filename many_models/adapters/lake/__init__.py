"""Implementations of the lake port: Delta Lake on disk or on Azure, and memory."""
