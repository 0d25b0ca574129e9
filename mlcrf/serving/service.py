"""The queue of images to tag, shared by all interfaces of the service."""

import asyncio
from collections.abc import Mapping

from fastapi import HTTPException, Request

from mlcrf.backbones.feature_source import Decoded
from mlcrf.checkpoint import Run
from mlcrf.errors import DataError, MlcrfError
from mlcrf.images import Image
from mlcrf.prediction import Prediction, Tagger
from mlcrf.prediction.known import with_told
from mlcrf.serving.batching import Batcher, Busy
from mlcrf.serving.monitoring import LATER, Limits, Metrics

_GONE = 499  # status for metrics if the client has disconnected, as in nginx
_SHOWN = 200  # characters of the input that a message repeats

Item = tuple[Image, Mapping[str, bool]]
_Decoded = tuple[Image, Decoded | DataError, Mapping[str, bool]]


class Service:
    """The queue, batches and metrics of the tagging paths."""

    def __init__(self, run: Run, tagger: Tagger, limits: Limits) -> None:
        self.run, self._tagger = run, tagger
        self.batcher = Batcher(
            self._prepare,
            self._work,
            threads=tagger.threads,
            most=limits.batch,
            waiting=limits.waiting,
        )
        self.metrics = Metrics(lambda: self.batcher.waiting)

    def _prepare(self, item: Item) -> _Decoded:
        return item[0], self._tagger.decode(item[0]), item[1]

    def _work(self, items: list[_Decoded]) -> list[Prediction]:
        self.metrics.batches.observe(len(items))
        before = self._tagger.unconverged
        found = self._tagger.predict_decoded(*map(list, zip(*items, strict=True)))
        self.metrics.unconverged.inc(self._tagger.unconverged - before)
        return found

    async def tag(self, request: Request, items: list[Item]) -> list[Prediction]:
        """Tag images, unless the client disconnects first.

        Raises:
            HTTPException: known labels are wrong, or too many images are waiting.
        """
        for _, known in items:
            _check(known, self.run)
        work = asyncio.ensure_future(self.batcher(items))
        gone = asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise HTTPException(_GONE, "the client has disconnected")
            found = work.result()
        except Busy:
            raise HTTPException(
                503, f"{self.batcher.waiting} images are waiting; try again", LATER
            ) from None
        finally:
            work.cancel()
            gone.cancel()
        for one in found:
            self.metrics.images.labels("error" if one.error else "tagged").inc()
        return found


async def _gone(request: Request) -> None:
    """Return once the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def shown(value: str | int) -> str | int:
    """Return part of an error, shortened and encodable."""
    if isinstance(value, int):
        return value
    return value[:_SHOWN].encode(errors="backslashreplace").decode()


def _check(known: Mapping[str, bool], run: Run) -> None:
    if not known:
        return
    try:
        with_told(None, {"image": known}, run.labels, run.rules)
    except MlcrfError as error:
        reason = error.reason if isinstance(error, DataError) else str(error)
        raise HTTPException(422, f"known: {shown(reason)}") from error
