"""The one exception that a user may see without a traceback."""


class UserError(Exception):
    """Something the user can mend: a wrong setting, a missing file, a broken data set.

    The message says what is wrong and how to mend it. Programs print it without a
    traceback and exit with code 2.
    """
