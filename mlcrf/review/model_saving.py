"""Save what a review has learned as a run directory, in the background."""

import os
import shlex
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock

from mlcrf.backbones.registry import BackboneSpec
from mlcrf.checkpoint import Run
from mlcrf.errors import RunError
from mlcrf.reports.card import save_card
from mlcrf.review.session import Review
from mlcrf.training.extending import TaughtReport, leave_out, make_taught_run
from mlcrf.training.taught_saving import require_free, save_taught

_RUNS = Path("runs")


class ModelSaving:
    """A writer of run directories; one request is carried out at a time.

    Args:
        base: the model that the review started from; None without one.
        spec: the backbone of the photos' features.
        out: the run directory; None for the name that is asked for, in `runs`.
    """

    def __init__(
        self, review: Review, base: Run | None, spec: BackboneSpec, out: Path | None = None
    ) -> None:
        self._review, self._base, self._spec, self.out = review, base, spec, out
        self._threads = ThreadPoolExecutor(1, "model")
        self._lock = Lock()
        self._request = ""
        self._result: Future[TaughtReport] | None = None

    def start(self, name: str, request: str, *, replace: bool = False) -> None:
        """Begin to save the model.

        Args:
            name: of a folder in `runs`; not used if the run directory is given.
            request: identifier of the act; the same one again does nothing.
            replace: replace a run that is there.

        Raises:
            DataError: nothing was learned yet.
            RunError: another model is being saved, or the place cannot be used.
        """
        with self._lock:
            if request == self._request:
                return
            if self._result is not None and not self._result.done():
                raise RunError("a model is being saved already; wait until it is")
            out = _RUNS / _plain(name) if self.out is None else self.out
            require_free(out, overwrite=True)
            if out.is_dir() and any(out.iterdir()) and not replace:
                raise RunError(f"{out}: exists already; tick Replace it, or choose another name")
            self._review.learned()
            self._request = request
            self._result = self._threads.submit(self._save, out, replace)

    def status(self) -> Mapping[str, object]:
        """Return whether the last request is done, and what came of it.

        Raises:
            MlcrfError: it failed.
        """
        with self._lock:
            result = self._result
        if result is None or not result.done():
            return {"is_running": result is not None}
        run = result.result().run
        photos, model = shlex.quote(self._folder()), shlex.quote(str(run.path))
        return {
            "is_running": False,
            "path": str(run.path),
            "tags": len(run.labels),
            "photos": result.result().images,
            "commands": [
                f"mlcrf predict {photos} --model {model} --out tags.csv",
                f"mlcrf tag {photos} --model {model} --xmp",
            ],
        }

    def close(self) -> None:
        """Wait until the model that is being saved is there."""
        self._threads.shutdown(wait=True)

    def _save(self, out: Path, replace: bool) -> TaughtReport:
        taught, data, gone = self._review.learned()
        report = leave_out(make_taught_run(taught, data, self._base, self._spec), gone)
        report = save_taught(report, out, overwrite=replace)
        save_card(report)
        return report

    def _folder(self) -> str:
        return os.path.commonpath([photo.image.folder for photo in self._review.photos])


def _plain(name: str) -> str:
    """Return the name of a folder.

    Raises:
        RunError: it is none.
    """
    if not name or name.startswith(".") or any(sign in name for sign in "/\\\0"):
        raise RunError(f"{name!r}: a model's name has no slash and does not begin with a dot")
    return name
