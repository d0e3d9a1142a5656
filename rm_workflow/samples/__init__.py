"""The embedded sample: seeded generator of small data sets with planted defects."""
