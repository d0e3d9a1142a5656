"""The one exception that users see."""

from rm_workflow.redaction import redact

# What a row, a field or a name lends to a sentence has no limit of its own. The file stands at the beginning, the mend
# at the end.
LONGEST = 2_000
KEPT_BEGINNING = 1_500
KEPT_END = 400


class UserError(Exception):
    """Bad input, told in one sentence that names the file, the field and the mend; secrets in it are masked.

    The command line prints it after ``error:`` without a traceback and exits with 1.

    Of a long one only beginning and end are kept.

    Attributes:
        place: keys that lead to the fault in the entry of the catalogue that is checked, or None: (rule, parameter).
    """

    def __init__(self, sentence: str, place: tuple[str, ...] | None = None) -> None:
        super().__init__(shortened(redact(sentence)))
        self.place = place


def shortened(sentence: str) -> str:
    """Return a sentence whose middle is left out, and counted, where it is too long to be read."""
    if len(sentence) <= LONGEST:
        return sentence
    num_left_out = len(sentence) - KEPT_BEGINNING - KEPT_END
    return f"{sentence[:KEPT_BEGINNING]} ... {num_left_out:,} characters ... {sentence[-KEPT_END:]}"
