"""The one exception for mistakes of the user."""


class UserError(Exception):
    """A mistake of the user, told in one sentence that names the place and the fix.

    The command line prints the sentence and exits with code 2; nothing else derives from it, so that a
    fault of our own is never mistaken for one of the user's.
    """
