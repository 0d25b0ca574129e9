"""Finished stages of a training run, so that a resumed run does not repeat them."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mlcrf.atomic import read_sealed, write_sealed
from mlcrf.errors import RunError
from mlcrf.processes import ALONE, Processes
from mlcrf.training.finite import require_finite

Result = dict[str, Any]  # tensors, numbers, strings, and lists and dicts of them


class Stages:
    """Results by name, kept in one file that is replaced after each stage, or only in memory.

    A stage is deterministic given earlier stages, so a run that is stopped at any time and resumed
    ends with the same bits.

    Args:
        path: the file; loaded if it exists. None keeps results in memory.
        settings: must equal the settings of the resumed run.
        processes: processes of the run; all load the file, and the first writes it.

    Raises:
        RunError: the file is damaged or belongs to other settings.
    """

    def __init__(self, path: Path | None, settings: str, processes: Processes = ALONE) -> None:
        self._path, self._processes = path, processes
        self._results: dict[str, Result] = {}
        if path is not None and path.exists():
            state = _load(path)
            same, self._results = state["settings"] == settings, state["results"]
            if not same:
                raise RunError(
                    f"{path}: was made with other settings or data; resume with the same ones, "
                    "or train into a new folder"
                )
        self._settings = settings
        exists = path is not None and path.exists()
        processes.barrier()  # no process may see a file written now
        if not exists:
            self._save()

    def run(self, name: str, compute: Callable[[], Result]) -> Result:
        """Return the result of a stage; compute and keep it if it is new."""
        if name not in self._results:
            self.keep(name, compute())
        return self._results[name]

    def count(self, prefix: str) -> int:
        """Return the number of finished stages whose names begin so."""
        return sum(name.startswith(prefix) for name in self._results)

    def find(self, name: str) -> Result | None:
        return self._results.get(name)

    def keep(self, name: str, result: Result) -> None:
        """Keep a result; it replaces an earlier result of the same name.

        Raises:
            RunError: a number is not finite; the earlier result is then kept.
        """
        require_finite(name, result)
        self._results[name] = result
        self._save()

    def _save(self) -> None:
        if self._path is None or not self._processes.is_first:
            return
        stream = io.BytesIO()
        torch.save({"settings": self._settings, "results": self._results}, stream)
        write_sealed(self._path, stream.getvalue())


def _load(path: Path) -> dict[str, Any]:
    """Load a sealed state file."""
    try:
        content = read_sealed(path)
        if content is None:
            raise ValueError("its SHA-256 differs")
        state = torch.load(  # noqa: TID251, our own file
            io.BytesIO(content), map_location="cpu", weights_only=True
        )
        if not isinstance(state["settings"], str) or not isinstance(state["results"], dict):
            raise TypeError("unexpected content")
    except Exception as error:
        raise RunError(f"{path}: damaged, cannot resume; train into a new folder") from error
    checked: dict[str, Any] = state
    return checked
