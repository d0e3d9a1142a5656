"""Benchmarks that print ratios against named rivals: interleaved runs, median and spread. Never timed tests."""
