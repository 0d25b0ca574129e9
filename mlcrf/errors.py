"""Errors that a user can mend: each says the cause and what to do."""


def printable(name: object) -> str:
    """Return a name on one line, whatever is in it."""
    text = str(name)
    return text if text.isprintable() else repr(text)


class MlcrfError(Exception):
    """Something that the user can mend; the command line prints it as it is and exits with 1."""


class MlcrfWarning(UserWarning):
    """Something that a user should know of work that went on; the command line prints a note."""


class PotentialsError(MlcrfError, ValueError):
    """Potentials, or labels known beside them, that are no CRF: wrong shape, not finite."""


class TooManyLabelsError(MlcrfError, ValueError):
    """Exact inference would enumerate more states than allowed."""


class LabelsError(MlcrfError, ValueError):
    """Label names that are empty, double, or do not match those of a model."""


class SettingsError(MlcrfError, ValueError):
    """A setting that is unknown or out of range."""


class DataError(MlcrfError):
    """A table, folder or image that cannot be read as it should be.

    The message is one line that joins the attributes, `path:line: reason`.

    Attributes:
        reason: what is wrong, and what to do.
        path: the file, folder or image, as text; None if the error is about none, or several.
        line: in the file, from 1; None if the error is about all of it.
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
    """A run directory that is not one, is damaged, or is in the way."""


class ClusterError(MlcrfError):
    """A cluster that is out of reach, or gave up."""


class DatabaseError(MlcrfError):
    """A database of answers that is out of reach, or is not one."""
