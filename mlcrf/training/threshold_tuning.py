"""Thresholds of the finished models, tuned on the validation images."""

import torch

from mlcrf.choices import Decision, InferenceName
from mlcrf.config import TrainSettings
from mlcrf.decoding import Decoder, ThresholdMeasure
from mlcrf.model import LabelCrf
from mlcrf.processes import ALONE
from mlcrf.training.finite import diverging, require_finite
from mlcrf.training.heads import Examples

_AT_ONCE = 4096  # images whose marginals are computed together


@torch.no_grad()
def tune_decoders(
    model: LabelCrf, held_out: Examples, settings: TrainSettings, inference: InferenceName
) -> tuple[Decoder, ...]:
    """One threshold tuned for micro F1, and one a label for macro F1.

    Args:
        model: fitted without the held-out images.
        inference: that the run will be decoded with.

    Raises:
        RunError: marginals are not finite.
    """
    method = model.make_inference(inference, settings)
    with diverging("thresholds"):
        count = len(held_out.targets)
        parts = ALONE.blocks(count, _AT_ONCE)
        marginals = torch.cat([method(held_out.potentials(model, one)).marginals for one in parts])
    require_finite("thresholds", {"marginals": marginals})
    targets = torch.from_numpy(held_out.targets)
    return tuple(
        Decoder(rule).tune(marginals, targets, measure)
        for rule, measure in (
            (Decision.TUNED_THRESHOLD, ThresholdMeasure.MICRO_F1),
            (Decision.LABEL_THRESHOLDS, ThresholdMeasure.MACRO_F1),
        )
    )
