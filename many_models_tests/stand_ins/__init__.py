"""Servers and services that stand in for what cannot run here; benchmarks use them, too."""
