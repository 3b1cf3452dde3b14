"""Implementations of the compute port: in this process, in a pool, on Spark, as Azure ML jobs."""
