"""Tags of photos that a run promises before anybody has answered."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mlcrf.checkpoint import Run
from mlcrf.choices import PrecisionOf
from mlcrf.crf import Potentials
from mlcrf.decoding import Decoder, Guarantee
from mlcrf.inference import prepare

_TOGETHER = 256  # photos
_SLACK = 0.01  # by which inference of one photo and of many may differ
_LEAVE_OUT = 1e-6  # probability that exact inference may drop, as `Tagger` does


class PromiseText(NamedTuple):
    """The words of a promise on the page.

    Attributes:
        asked: such as "precision 95 %".
        mark: the mark of a tag that it covers.
        meaning: a sentence about these tags.
        support: a sentence about the calibration images.
    """

    asked: str
    mark: str
    meaning: str
    support: str


@dataclass(frozen=True)
class Promise:
    """Tags of N photos that a precision or a recall is promised for.

    They are those that `mlcrf predict` writes with the same promise: chosen by the run as it was
    loaded, as if nothing were known. So neither answers nor what is learned from them choose among
    the photos that the promise is about. Answers only overrule it: right ones remove tags that are
    wrong, and add tags that are right.

    Attributes:
        decoder: with the thresholds that the calibration images support.
        tags: which are promised, bool (N, L).
        marginals: P(tag present), with nothing known, float32 (N, L).
        labels: all labels of the run.
        images: number of calibration images.
    """

    decoder: Decoder
    tags: Tensor
    marginals: Tensor
    labels: tuple[str, ...]
    images: int

    @classmethod
    def of_photos(cls, run: Run, potentials: Potentials, decoder: Decoder) -> "Promise":
        """Choose the tags of photos by a calibrated decoder of the run; cost: as `mlcrf predict`.

        Args:
            potentials: of the photos (N, L).
        """
        method = run.make_inference()
        prepared = prepare(method, potentials, leave_out=_LEAVE_OUT)
        tags, marginals = [], []
        for rows in torch.split(torch.arange(len(potentials.unary)), _TOGETHER):
            some = potentials.rows(rows)
            posterior = prepared(some)
            tags.append(decoder(posterior, some, method) == 1)
            marginals.append(posterior.marginals.float())
        images = len(run.load_calibration().targets)
        return cls(decoder, torch.cat(tags), torch.cat(marginals), run.labels.names, images)

    @property
    def guarantee(self) -> Guarantee:
        assert self.decoder.guarantee is not None
        return self.decoder.guarantee

    @property
    def left_out(self) -> tuple[str, ...]:
        """The labels for which the promise cannot be had."""
        return self.decoder.left_out(self.labels)

    @property
    def covers_sure(self) -> bool:
        """Return whether promised tags are sure ones: those of a precision."""
        return self.guarantee.precision is not None

    def open_tags(self, answered: Tensor, marginals: Tensor) -> Tensor:
        """Return the promised tags that nobody has answered, bool (N, K).

        Tags of a precision that answers have made less likely, and less likely than not, are left
        out; of a recall those that they have made impossible.

        Args:
            answered: whether anybody has answered, (N, K); the first L tags are the run's labels.
            marginals: P(tag present | answers) (N, K).
        """
        found = torch.zeros_like(answered)
        ours = slice(0, self.tags.shape[1])
        least = torch.full_like(self.marginals, 0.5) if self.covers_sure else 0 * self.marginals
        now = marginals[:, ours]
        is_likely = (now > least) | (now >= self.marginals - _SLACK)
        found[:, ours] = self.tags & ~answered[:, ours] & is_likely & (now > 0)
        return found

    @property
    def text(self) -> PromiseText:
        promise = self.guarantee
        level, confidence = f"{100 * promise.level:g} %", f"{100 * promise.confidence:g} %"
        if promise.precision is None:
            meaning = f"of the photos that have a tag, at least {level} get it"
            mark = "written"
        else:
            each = "of each tag" if promise.of is PrecisionOf.LABEL else "of all of these together"
            meaning = f"at least {level} {each} are right"
            mark = "sure"
        return PromiseText(
            f"{promise.measure} {level}",
            mark,
            f"{meaning}, with confidence {confidence}",
            f"for photos like the {self.images} of {promise.calibration} that the model was "
            "calibrated on",
        )
