"""Benchmarks, one file each with its exact scoring rule."""
