"""The whole library in one line: `Tagger.load(run).predict(images)`."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice, tee
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mlcrf.backbones.features import FeatureExtractor
from mlcrf.checkpoint import Run, load_run
from mlcrf.choices import EngineName
from mlcrf.decoding import Decoder
from mlcrf.errors import DataError

_BATCH_SIZE = 256  # the CRF sets up its kernel once a batch


@dataclass(frozen=True)
class Prediction:
    """What is said of one picture.

    Attributes:
        image: its path.
        labels: those decided present.
        marginals: P(label present) under the CRF, by label.
        independent: the same under the independent baseline.
        error: why there is no prediction; the rest is empty then.
    """

    image: Path
    labels: tuple[str, ...] = ()
    marginals: tuple[float, ...] = ()
    independent: tuple[float, ...] = ()
    error: str = ""


class Tagger:
    """A run, ready to tag pictures.

    Args:
        decoder: how label sets are chosen from the CRF's beliefs.
        cache_dir: where features are kept; None keeps none.
    """

    def __init__(
        self,
        run: Run,
        *,
        engine: EngineName = EngineName.AUTO,
        device: torch.device = torch.device("cpu"),
        decoder: Decoder = Decoder(),
        cache_dir: Path | None = None,
    ) -> None:
        self.run = run
        self.labels = run.labels
        self._decoder = run.make_decoder(decoder)
        self._inference = run.make_inference()
        self._extractor = FeatureExtractor(
            run.make_backbone(), engine=engine, device=device, cache_dir=cache_dir
        )

    @classmethod
    def load(cls, path: str | Path) -> "Tagger":
        """Load a run directory with default settings.

        Raises:
            RunError: it is none; see `mlcrf.checkpoint.load_run`.
            BackboneError: the published weights of its network are not to be had here.
        """
        return cls(load_run(Path(path)))

    def predict(self, images: Iterable[str | Path]) -> Iterator[Prediction]:
        """One prediction a picture, in order; a picture that cannot be read gives its error.

        Memory does not grow with the number of pictures.
        """
        paths, again = tee(Path(image) for image in images)
        stream = zip(again, self._extractor.stream(paths), strict=True)
        while batch := list(islice(stream, _BATCH_SIZE)):
            features = [feature for _, feature in batch if not isinstance(feature, DataError)]
            records = self._tag(np.stack(features)) if features else iter(())
            for path, feature in batch:
                if isinstance(feature, DataError):
                    yield Prediction(path, error=str(feature))
                else:
                    labels, marginals, independent = next(records)
                    yield Prediction(path, labels, marginals, independent)

    @torch.no_grad()
    def _tag(
        self, features: NDArray[np.float32]
    ) -> Iterator[tuple[tuple[str, ...], tuple[float, ...], tuple[float, ...]]]:
        inputs = torch.from_numpy(features)
        potentials = self.run.crf(inputs)
        posterior = self._inference(potentials)
        chosen = self._decoder(posterior, potentials, self._inference)
        independent = self.run.independent(inputs).unary.sigmoid()
        for states, p, q in zip(chosen, posterior.marginals, independent, strict=True):
            present = tuple(
                name for name, state in zip(self.labels, states.tolist(), strict=True) if state
            )
            yield present, tuple(p.tolist()), tuple(q.tolist())
