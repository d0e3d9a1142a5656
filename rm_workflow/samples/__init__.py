"""The embedded sample: a seeded generator of small data sets with planted defects.

``python -m rm_workflow.samples [FOLDER]`` writes all files anew; the same bytes every time.
"""

from rm_workflow.samples.generate import FILES, folder, write

__all__ = ["FILES", "folder", "write"]
