"""The error tree: every error a user can meet says what was got, what was expected, how to mend it."""


class RegistaError(Exception):
    """Base of all errors raised on purpose by Regista.

    The command line prints the message alone and exits with `exit_code`.
    """

    exit_code = 2


class GeometryError(RegistaError, ValueError):
    """Grids, spaces or headers that do not fit together."""


class FormatError(RegistaError, ValueError):
    """A file that is missing, damaged, or not of the kind that was asked for."""


class PlanError(RegistaError, ValueError):
    """A plan, preset or parameter that cannot be used."""


class RegistrationError(RegistaError, RuntimeError):
    """A registration that ran and did not end well (diverged, no overlap, out of memory)."""

    exit_code = 1


class Cancelled(RegistaError):
    """The user stopped the run; nothing has been written."""

    exit_code = 130
