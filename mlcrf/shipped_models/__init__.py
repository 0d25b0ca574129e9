"""Models that come with the package: run directories of a head and couplings, by name.

Each holds what `mlcrf.checkpoint` writes, a model card `README.md`, and `metrics.json` with the
figures of the same recipe on photos that it had not seen. `make pretrained` makes them.
"""

from pathlib import Path

DEFAULT = "mirflickr24"
_HERE = Path(__file__).parent


def names() -> list[str]:
    """Return the names of all models that come with the package, in order."""
    return sorted(folder.parent.name for folder in _HERE.glob("*/config.json"))


def find_model(path: Path) -> Path:
    """Return the run directory that a user names: a folder, else a model of ours of that name."""
    return _HERE / path if not path.exists() and str(path) in names() else path


def is_shipped(path: Path) -> bool:
    """Return whether a run directory is part of the package."""
    return path.resolve().parent == _HERE.resolve()
