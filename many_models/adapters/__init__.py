"""Implementations of the ports, one vendor a module; they know no Dagster."""
