"""What can go wrong through no fault of the code: every error says the cause and what to do."""


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
    """A table, folder or picture that cannot be read as it should be."""


class DownloadError(MlcrfError):
    """A file that could not be fetched, verified or unpacked."""


class BackboneError(MlcrfError):
    """A backbone that is unknown, or whose weights are not to be had here."""


class RunError(MlcrfError):
    """A run directory that is not one, is damaged, or is in the way."""


class ClusterError(MlcrfError):
    """A cluster that is out of reach, or gave up."""


class DatabaseError(MlcrfError):
    """A database of answers that is out of reach, or is not one."""
