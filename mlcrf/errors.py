"""Errors that a user can fix; each message states the cause and what to do."""


def printable(name: object) -> str:
    """Return a name on one line, with unprintable characters escaped."""
    text = str(name)
    return text if text.isprintable() else repr(text)


def reason_of(error: BaseException) -> str:
    """Return the message of an error on one line; its type if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


class MlcrfError(Exception):
    """An error that the user can fix; the command line prints its message and exits with 1."""


class MlcrfWarning(UserWarning):
    """A warning to the user about work that continues; the command line prints it as a note."""


class PotentialsError(MlcrfError, ValueError):
    """Invalid potentials or known labels: wrong shape, or not finite."""


class ProbabilitiesError(MlcrfError, ValueError):
    """Predictions to be scored that are no probabilities, or of another shape than the targets."""


class GradientError(MlcrfError, RuntimeError):
    """A gradient through results that carry none, or a derivative of too high an order."""


class TooManyLabelsError(MlcrfError, ValueError):
    """Exact inference would enumerate more states than allowed."""


class LabelsError(MlcrfError, ValueError):
    """Label names that are empty, duplicate, or do not match a model's labels."""


class SettingsError(MlcrfError, ValueError):
    """A setting that is unknown or out of range."""


class DataError(MlcrfError):
    """A table, folder or image that is missing or invalid.

    The message is one line, `path:line: reason`.

    Attributes:
        reason: the cause, and what to do.
        path: the file, folder or image, as text; None if the error is not about one path.
        line: line in the file, from 1; None if the error is not about one line.
    """

    def __init__(self, reason: str, path: object = None, line: int | None = None) -> None:
        self.reason, self.line = reason, line
        self.path = None if path is None else str(path)
        place = [printable(path)] if path is not None else []
        place += [str(line)] if line is not None else []
        super().__init__(f"{':'.join(place)}: {reason}" if place else reason)


class DownloadError(MlcrfError):
    """A file that could not be fetched, verified or unpacked."""


class BackboneError(MlcrfError):
    """A backbone that is unknown, or whose weights are not available offline."""


class RunError(MlcrfError):
    """A path that is not a run directory, a damaged run, or a run that would be overwritten."""


class ClusterError(MlcrfError):
    """A cluster that cannot be reached, or that failed."""


class DatabaseError(MlcrfError):
    """A path or URL that is not a database of answers, or one that cannot be reached."""
