"""The one exception that users see."""


class UserError(Exception):
    """Bad input, told in one sentence that names the file, the field and the mend.

    The command line prints it after ``error:`` without a traceback and exits with 1.
    """
