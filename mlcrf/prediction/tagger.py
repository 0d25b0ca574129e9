"""Predictions for images: `Tagger.load(run).predict(images)`."""

import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from itertools import groupby, islice, tee
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlcrf.backbones.feature_source import Decoded
from mlcrf.backbones.sources import make_source
from mlcrf.checkpoint import Run, coverage_notes, guarantee_notes, load_run
from mlcrf.choices import EngineName, PrecisionOf
from mlcrf.crf import UNKNOWN, Potentials
from mlcrf.decoding import Costs, Coverage, Decoder, Guarantee, load_costs
from mlcrf.errors import DataError, MlcrfWarning, PotentialsError, RunError, SettingsError
from mlcrf.images import Image, ImageBytes, ListedImages, as_image
from mlcrf.images.albums import find_albums
from mlcrf.inference import InferenceMethod, prepare
from mlcrf.inference.explanation import explain_label
from mlcrf.inference.questions import answer_information, pair_marginals
from mlcrf.labels import LabelSpace
from mlcrf.latent import share_in_albums
from mlcrf.prediction.families import FamilyFinder
from mlcrf.prediction.formats.table import WideLayout
from mlcrf.prediction.job import PredictJob
from mlcrf.prediction.known import KnownLabels, with_told
from mlcrf.prediction.reasons import EvidenceMap, Reasons, make_reasons, map_evidence
from mlcrf.prediction.record import Family, Prediction
from mlcrf.shipped_models import DEFAULT

if TYPE_CHECKING:  # heavy
    import pandas as pd

TOGETHER = 256  # images that the CRF processes together
_LEAVE_OUT = 1e-6  # probability that exact inference may drop, as `Exact` does for many images
LARGEST_ALBUM = 1024  # images of a folder that are processed together

_Item = tuple[Image, NDArray[np.float32] | DataError]


class Tagger:
    """A run, ready to tag images.

    Args:
        job: settings of predictions; None for the defaults. With `album`, images of a folder must
            come one after the other; a folder is split into albums of at most 1,024 images.
        cache_dir: cache folder for features and compiled networks; None disables the cache.
        num_threads: threads for decoding images and running the network; None for all cores.
        information: whether predictions have the information of answers.
        on_image: called once the features of an image to predict are known.

    Attributes:
        unconverged: number of images so far whose inference did not converge.
        coverage: that of the families of label sets, as calibrated; None for no families.

    Raises:
        RunError: the job is for another run, or needs albums and the run was trained without.
    """

    def __init__(
        self,
        run: Run,
        job: PredictJob | None = None,
        *,
        engine: EngineName = EngineName.AUTO,
        device: torch.device = torch.device("cpu"),
        cache_dir: Path | None = None,
        num_threads: int | None = None,
        information: bool = False,
        on_image: Callable[[], None] = lambda: None,
    ) -> None:
        job = job or PredictJob(run.digest)
        if job.run != run.digest:
            raise RunError(f"{run.path}: differs from the run that the job was made for")
        if job.album and not run.settings.albums:
            raise RunError(
                f"{run.path}: was trained without albums; train with --structure latent --album"
            )
        self.run = run
        self._known, self._album, self._hints = job.known, job.album, job.hints
        self.labels = run.labels
        self._decoder = run.make_decoder(job.decoder)
        self._inference = run.make_inference()
        self._prepared: InferenceMethod | None = None
        self.coverage = None if job.coverage is None else run.make_coverage(job.coverage)
        self._families: FamilyFinder | None = None
        if self.coverage is not None:
            self._families = FamilyFinder(self.coverage, self._inference, run.labels.names)
        self.unconverged = 0
        self._on_image, self._wants_information = on_image, information
        self._extractor = make_source(
            run.defer_backbone(),
            engine=engine,
            device=device,
            cache_dir=cache_dir,
            num_workers=num_threads,
        )

    @classmethod
    def load(
        cls,
        path: str | Path = DEFAULT,
        *,
        precision: float | None = None,
        recall: float | None = None,
        confidence: float = 0.9,
        precision_of: Literal["label", "all"] = "label",
        costs: str | Path | Mapping[str, Sequence[float | None]] | None = None,
        abstain: float | None = None,
        coverage: float | None = None,
        randomised: bool = False,
        engine: EngineName = EngineName.AUTO,
        device: torch.device = torch.device("cpu"),
        cache_dir: str | Path | None = None,
    ) -> "Tagger":
        """Load a run directory, or a model that comes with mlcrf.

        Args:
            precision, recall: write labels only where calibration images of the run support this
                precision, or so often that they support this recall; see docs/guarantees.md.
            confidence: confidence of that promise.
            precision_of: the precision of each label, or of all written labels together.
            costs: decide at least expected cost: a file for `--costs`, or for each label
                (cost if false, cost if missed) or these and the cost of leaving it open; `*` stands
                for all labels that are not named. See docs/decisions.md.
            abstain: cost of leaving a label open for which `costs` have none.
            coverage: also give the family of label sets that holds the right one with this
                probability, as `Prediction.family`.
            randomised: choose the last set of a family at random, by the image.
            engine, device: what runs the network, as for `--engine` and `--device`.
            cache_dir: folder that keeps features and the network that was converted for its engine
                (10 to 20 s); None keeps nothing.

        Warns:
            MlcrfWarning: labels for which that cannot be had, which are left out; or the images are
                too few for the coverage, and every family holds all label sets.

        Raises:
            RunError: not a run, see `mlcrf.checkpoint.load_run`; or it has no calibration images.
            SettingsError: both a precision and a recall, or not between 0 and 1; either with
                costs; or a number that is no cost; or a coverage that is not between 0 and 1.
            DataError, LabelsError: see `load_costs` and `Costs.of`.
            BackboneError: the published weights of its network are not available offline.
        """
        run = load_run(Path(path))
        if costs is None and abstain is not None:
            raise SettingsError("abstain is for costs; give both")
        families = None
        if coverage is not None:
            families = run.make_coverage(Coverage(coverage, randomised))
            if families.is_of_all:
                note = next(coverage_notes(run, families))
                warnings.warn(note, MlcrfWarning, stacklevel=2)
        decoder = Decoder()
        if precision is None and recall is None:
            if costs is not None:
                decoder = Decoder(costs=_read_costs(costs, run.labels, abstain))
        elif costs is not None:
            raise SettingsError("costs decide otherwise than precision and recall; leave one out")
        else:
            decoder = run.make_decoder(_promise(precision, recall, confidence, precision_of))
            if decoder.left_out(run.labels.names):
                note = next(guarantee_notes(run, decoder))
                warnings.warn(note, MlcrfWarning, stacklevel=2)
        return cls(
            run,
            PredictJob(run.digest, decoder, coverage=families),
            engine=engine,
            device=device,
            cache_dir=None if cache_dir is None else Path(cache_dir),
        )

    @property
    def left_out(self) -> tuple[str, ...]:
        """The labels that are never chosen, because what was promised cannot be had for them."""
        return self._decoder.left_out(self.labels.names)

    def predict(
        self,
        images: Iterable[str | Path | Image],
        *,
        known: Mapping[str | Path | Image, Mapping[str, bool | None]] | None = None,
    ) -> Iterator[Prediction]:
        """Yield one prediction per image, in order; an image that cannot be read gives its error.

        Memory does not grow with the number of images.

        Args:
            known: known labels per image, as in `{"a.jpg": {"sea": True}}`. They keep their value,
                and the other labels are inferred from them; None is unknown.

        Warns:
            MlcrfWarning: inference did not converge for some images; once per tagger.

        Raises:
            LabelsError: `known` names an unknown label.
            DataError: `known` contradicts the rules of the run.
            RunError: log-odds of finite features are not finite.
            TypeError: `images` is one image, not several.
        """
        if isinstance(images, str | Path | Image):  # text would be taken for a list of letters
            raise TypeError(f"images: expected several, as in predict([{str(images)!r}])")
        told = self._known
        if known is not None:
            told = with_told(told, known, self.labels, self.run.rules)
        return self._predict(images, told)

    @torch.no_grad()
    def explain(
        self,
        image: str | Path | Image,
        label: str,
        *,
        known: Mapping[str, bool] | None = None,
    ) -> Reasons:
        """Return the reasons for the probability of one label of one image.

        The parts of the log-odds are those of `mlcrf.inference.explanation`. What is known of the
        label itself is left out.

        Args:
            known: other labels that are known, as in `{"sea": True}`.

        Raises:
            DataError: the image cannot be read, or `known` contradicts the rules.
            LabelsError: an unknown label.
            PotentialsError: the run is a mixture over scenes.
        """
        photo, column, told = as_image(image), self.labels.index(label), self._known
        if known is not None:
            told = with_told(told, {photo: known}, self.labels, self.run.rules)
        (features,) = self._extractor.stream([photo])
        if isinstance(features, DataError):
            raise features
        explanation = explain_label(
            self._inference,
            self._hinted(self.run.crf(torch.from_numpy(features[None])), [photo]),
            column,
            known=None if told is None else torch.from_numpy(told.of([photo])).long(),
        )

        def find_map() -> EvidenceMap:
            return map_evidence(self.run.crf, self._extractor.maps(photo), column)

        return make_reasons(explanation, column, self.labels.names, photo, find_map)

    def predict_listed(self, images: ListedImages) -> Generator[Prediction, None, None]:
        """Yield the predictions of listed images, with their index in the listing."""
        numbered, again = tee(images.numbered())
        predictions = self.predict(image for _, image in again)
        for (number, _), prediction in zip(numbered, predictions, strict=True):
            yield replace(prediction, listed=number)

    def _predict(
        self, images: Iterable[str | Path | Image], told: KnownLabels | None
    ) -> Iterator[Prediction]:
        listed, again = tee(as_image(image) for image in images)
        stream = self._counted(zip(again, self._extractor.stream(listed), strict=True))
        for batch in _by_folder(stream) if self._album else _by_number(stream):
            yield from self._records(batch, told)

    def _counted(self, stream: Iterator[_Item]) -> Iterator[_Item]:
        for item in stream:
            self._on_image()
            yield item

    def to_frame(self, predictions: Iterable[Prediction]) -> "pd.DataFrame":
        """Return one row per prediction, with the columns of the table that `mlcrf predict` writes.

        `image`, `labels` (a list), for every label `p:LABEL` and `independent:LABEL`, and `error`,
        which is empty for an image that was read. With costs of abstaining, `abstained` (a list).
        With a coverage also `surely` and `open`, labels that all label sets of the family have or
        some of them, and `sets`, their number.
        """
        import pandas as pd

        layout = WideLayout(
            self.labels, abstains=self._decoder.abstains, families=self.coverage is not None
        )
        rows = [
            dict(zip(layout.columns, row, strict=False), error=prediction.error)
            for prediction in predictions
            for row in layout.rows(prediction)
        ]
        return pd.DataFrame(rows, columns=[*layout.columns, "error"])

    def predict_contents(
        self, contents: Sequence[bytes], known: Sequence[Mapping[str, bool]] | None = None
    ) -> list[Prediction]:
        """Return one prediction per image, given as the bytes of its file; no cache is used.

        Args:
            known: known labels per image.

        Raises:
            LabelsError, DataError: see `predict`.
        """
        images = [ImageBytes("picture", content) for content in contents]
        with ThreadPoolExecutor(self.threads) as workers:
            return self.predict_decoded(images, list(workers.map(self.decode, images)), known)

    @property
    def threads(self) -> int:
        """The number of threads that decode images."""
        return self._extractor.num_workers

    def decode(self, image: Image) -> Decoded | DataError:
        """Decode an image for `predict_decoded`, or return the error; thread-safe."""
        return self._extractor.decode(image)

    def predict_decoded(
        self,
        images: Sequence[Image],
        decoded: Sequence[Decoded | DataError],
        known: Sequence[Mapping[str, bool]] | None = None,
    ) -> list[Prediction]:
        """Return one prediction per decoded image; call from one thread at a time.

        The images of the predictions are named by their number, from `picture 1` on, so that none
        is mistaken for another.
        """
        numbered = [replace(one, name=f"picture {at}") for at, one in enumerate(images, start=1)]
        features = self._extractor.of_decoded(numbered, decoded)
        told = self._known
        if known is not None and any(known):
            by_name: dict[str | Path | Image, Mapping[str, bool]] = dict(
                zip(numbered, known, strict=True)
            )
            told = with_told(told, by_name, self.labels, self.run.rules)
        return list(self._records(list(zip(numbered, features, strict=True)), told))

    def _records(self, batch: list[_Item], told: KnownLabels | None) -> Iterator[Prediction]:
        readable = [(path, one) for path, one in batch if not isinstance(one, DataError)]
        records: Iterator[Prediction] = iter(())
        if readable:
            records = self._tag(*map(list, zip(*readable, strict=True)), told=told)
        for path, feature in batch:
            if isinstance(feature, DataError):
                yield Prediction(path, error=str(feature))
            else:
                yield next(records)

    @torch.no_grad()
    def _tag(
        self, paths: list[Image], features: list[NDArray[np.float32]], *, told: KnownLabels | None
    ) -> Iterator[Prediction]:
        inputs = torch.from_numpy(np.stack(features))
        try:
            potentials = self._hinted(self.run.crf(inputs), paths)
            independent = self._hinted(self.run.independent(inputs), paths).unary.sigmoid()
        except PotentialsError as error:
            reason = f"{self.run.path}: for images such as {paths[0]}: {error}; try --engine torch"
            raise RunError(reason) from error
        known = None if told is None else torch.from_numpy(told.of(paths)).long()
        if self._album:
            potentials = self._in_albums(potentials, paths, known)
        if self._prepared is None:
            self._prepared = prepare(self._inference, potentials, leave_out=_LEAVE_OUT)
        posterior = self._prepared(potentials, known=known)
        if posterior.advice and not self.unconverged:
            reason = f"{posterior.advice} (shown once; further images may be affected)"
            warnings.warn(reason, MlcrfWarning, stacklevel=2)
        self.unconverged += int((~posterior.converged).sum())
        chosen = self._decoder(posterior, potentials, self._inference, known=known)
        confirmed = torch.zeros_like(chosen)
        if told is not None:
            confirmed = torch.from_numpy(told.told_of(paths) == 1)
        information = torch.zeros(len(paths), 0)
        if self._wants_information:
            pairs = pair_marginals(self._prepared, potentials, known=known)
            information = answer_information(pairs)
        families: Sequence[Family | None] = [None] * len(paths)
        if self._families is not None:
            families = self._families(potentials, features, known)
        columns = (chosen, posterior.marginals, independent, confirmed, information, families)
        for path, states, p, q, said, worth, family in zip(paths, *columns, strict=True):
            if not bool(p.isfinite().all()):
                reason = f"{path}: {self._inference.name} inference gives NaN; train with another"
                yield Prediction(path, error=reason)
                continue
            yield Prediction(
                path,
                self._named(states == 1),
                tuple(p.tolist()),
                tuple(q.tolist()),
                self._named(said),
                self._named(states == UNKNOWN),
                tuple(worth.tolist()),
                family=family,
            )

    def _hinted(self, potentials: Potentials, paths: Sequence[Image]) -> Potentials:
        """Return the potentials with what other sources say of the images."""
        if self._hints is None:
            return potentials
        return replace(potentials, unary=potentials.unary + self._hints.of(paths))

    def _named(self, states: Tensor) -> tuple[str, ...]:
        return tuple(
            name for name, state in zip(self.labels, states.tolist(), strict=True) if state
        )

    def _in_albums(
        self, potentials: Potentials, paths: list[Image], known: Tensor | None
    ) -> Potentials:
        """Return potentials that include the other images of the same album."""
        gap = timedelta(minutes=self.run.settings.album_gap_minutes)
        albums = find_albums(paths, gap=gap)
        transitions = self.run.crf.transitions
        assert transitions is not None
        return share_in_albums(potentials, self._inference, transitions, albums, known=known)


def _by_number(stream: Iterator[_Item]) -> Iterator[list[_Item]]:
    while batch := list(islice(stream, TOGETHER)):
        yield batch


def _by_folder(stream: Iterator[_Item]) -> Iterator[list[_Item]]:
    for _, items in groupby(stream, key=lambda item: item[0].folder):
        while batch := list(islice(items, LARGEST_ALBUM)):
            yield batch


def _promise(
    precision: float | None, recall: float | None, confidence: float, precision_of: str
) -> Decoder:
    try:
        of = PrecisionOf(precision_of)
    except ValueError:
        raise SettingsError(
            f"precision_of: expected 'label' or 'all', got {precision_of!r}"
        ) from None
    return Decoder.promising(Guarantee(precision, recall, confidence, of))


def _read_costs(
    costs: str | Path | Mapping[str, Sequence[float | None]],
    labels: LabelSpace,
    abstain: float | None,
) -> Costs:
    if isinstance(costs, Mapping):
        return Costs.of(costs, labels, abstain)
    return load_costs(Path(costs), labels, abstain=abstain)
