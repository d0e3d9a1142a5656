"""Which side of a split by hash a group is on, outside SQL."""

from rm_workflow.catalog.models import Split
from rm_workflow.keys import content_id

SHARE_DIGITS = 12  # of the hash that is drawn; 48 bits resolve any share


def is_test_group(group_id: str, split: Split) -> bool:
    """Return whether a mixture with this split by hash puts a group into test, as its SQL does."""
    drawn = content_id(["split", split.seed, group_id])[:SHARE_DIGITS]
    return int(drawn, 16) < int(split.test_share * 16**SHARE_DIGITS)
