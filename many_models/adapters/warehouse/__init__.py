"""Implementations of the warehouse port: SQL databases, Synapse, memory."""
