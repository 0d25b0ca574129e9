"""Models that come with the package: run directories of a head and couplings, by name.

Each holds what `mlcrf.checkpoint` writes, a model card `README.md`, and `metrics.json` with the
figures of the same recipe on photos that it had not seen. `make pretrained` makes them.
"""

from pathlib import Path

from mlcrf.errors import RunError
from mlcrf.hints import did_you_mean

CONFIG, LABELS = "config.json", "labels.txt"  # a run directory has them
DEFAULT = "mirflickr24"
_HERE = Path(__file__).parent


def names() -> list[str]:
    """Return the names of all models that come with the package, in order."""
    return sorted(folder.parent.name for folder in _HERE.glob(f"*/{CONFIG}"))


def find_model(path: Path) -> Path:
    """Return the run directory that a user names: a folder, else a model of ours of that name."""
    return _HERE / path if not path.exists() and str(path) in names() else path


def is_shipped(path: Path) -> bool:
    """Return whether a run directory is part of the package."""
    return path.resolve().parent == _HERE.resolve()


def find_run(path: Path) -> Path:
    """Return the run directory that a user names, which is there.

    Raises:
        RunError: there is none; the text suggests close names.
    """
    path = find_model(path)
    if path.is_dir():
        return path
    what = "is a file, not a run directory" if path.exists() else "no such run directory"
    runs = [one.parent.name for one in path.parent.glob(f"*/{CONFIG}")]
    hint = did_you_mean(path.name, [*runs, *names()])
    raise RunError(
        f"{path}: {what}{hint or '.'} Make one with `mlcrf train DATA --out DIR`, or use "
        f"{' or '.join(names())}, which come with mlcrf"
    )
