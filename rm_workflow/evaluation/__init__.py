"""Scorer, benchmarks and statistics."""
