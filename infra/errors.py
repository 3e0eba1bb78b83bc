"""Mistakes of the user, told without a traceback."""

import pulumi


class ConfigurationError(pulumi.RunError):
    """One or more mistakes in the roster or in the stack's configuration.

    The engine prints a `RunError` as a plain message and stops before anything is changed.
    The message names every mistake: where, what is wrong, what it would have caused, how to mend it.
    """
