"""Everything a user can set for a training run, in one frozen value that is saved with the run."""

import json
import reprlib
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from mlcrf.choices import (
    Finetune,
    InferenceName,
    ObjectiveName,
    Pairwise,
    Precision,
    Schedule,
    Structure,
)
from mlcrf.errors import SettingsError


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("is not UTF-8, which config.json is written in") from None
    return text


Text = Annotated[str, AfterValidator(_encodable)]
Strength = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Size = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class TrainSettings(BaseModel):
    """Settings of `mlcrf train`.

    Attributes:
        backbone: `lite0`, `lite1`, `lite2`, `tiny` or any name of timm's; names with `+` between
            them are networks side by side, whose features stand one after the other.
        finetune: `all` trains the network too; `tiny` has no published weights and needs it.
        structure: which pairs have a coupling: `full` all, `independent` none, `tree` those of
            the Chow-Liu tree of the training labels, `sparse` each label's strongest
            `edges_per_label` partners, `file` those that `edges_file` names. `latent` has none: a
            mixture over `scenes` latent scenes takes their place.
        scenes: of `latent`, how many.
        albums: of `latent`, learn how scenes follow each other too, from the photos of each folder
            in the order in which they were taken; see `mlcrf.images.albums`.
        album_gap_minutes: a longer gap between two photos begins another album.
        edges_per_label: of `sparse`, by mutual information.
        edges_file: of `file`, two label names a line, separated by a comma.
        pairwise: `conditional` lets couplings vary by image, J(x) = J0 + sum_r tanh(g_r(x)) B_r.
        rank: how many terms that sum has.
        objective: `auto` is exact likelihood where exact inference reaches, else contrastive
            divergence; both start from pseudo-likelihood.
        schedule: `joint` learns unaries and couplings together, from the independent baseline;
            `piecewise` leaves the baseline's weights as they are and learns couplings and biases.
        inference: `auto` is what the objective trains for: parallel mean field that was unrolled,
            convex belief propagation that was blended; for the others the cheapest exact method
            (a junction tree where the couplings are few, enumeration up to 2^`max_exact_labels`
            states), else Gibbs.
        head: hidden units of the head; 0 is linear in the features, a convex problem.
        dropout: share of features and of hidden units that are left out at random while the head
            is learned. Above 0 the head is the mean of several `members`, see
            `mlcrf.training.members`, each with `head` units; `weight_decay` is their penalty, and
            `penalties` are not used.
        members: of a head with dropout, how many; each learns from all but its part of the images.
        pos_weight: how much a present label counts beside an absent one in the independent
            objective, that of the baseline and of the unaries that the CRF starts from.
        focus_positive, focus_negative, margin: exponents and shift of the asymmetric loss, there
            too; see `mlcrf.objectives.independent_loss`.
        chains, chain_sweeps, steps: of contrastive divergence; blended learning makes twice as
            many steps.
        mean_field_sweeps: passes of mean field, unrolled in training and made in decoding.
        max_exact_labels: where exact enumeration ends.
        penalties: L2 penalties on the head's weights that validation chooses from, each about
            three times the one before it.
        pairwise_penalties: the same for couplings.
        pairwise_l1: L1 penalties on the couplings that validation chooses from.
        tolerance: a fit has converged when the loss it can still gain is estimated to be below
            this, in nats an image; see `mlcrf.training.fit`.
        exact_tolerance: the same for the exact likelihood, whose gradient is dear.
        accumulate: in how many parts `--finetune all` computes the gradient of a batch, one after
            the other; more need less memory. Batch normalisation then sees a part at a time.
        precision: of the network in `--finetune all`; `auto` is bfloat16 where an accelerator
            computes in it, else float32. Head and CRF are in float32 in any case.
        epochs, learning_rate, batch_size, weight_decay: of `--finetune all`, and of a head with
            dropout.
        seed: of everything random.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: Text = "lite0"
    finetune: Finetune = Finetune.NONE
    structure: Structure = Structure.FULL
    edges_per_label: int = Field(default=8, ge=1)
    edges_file: Text | None = None
    scenes: int = Field(default=8, ge=2, le=1000)
    albums: bool = False
    album_gap_minutes: float = Field(default=60.0, gt=0, allow_inf_nan=False, le=1e7)
    pairwise: Pairwise = Pairwise.CONSTANT
    rank: int = Field(default=4, ge=1, le=256)
    objective: ObjectiveName = ObjectiveName.AUTO
    schedule: Schedule = Schedule.JOINT
    inference: InferenceName = InferenceName.AUTO
    head: int = Field(default=0, ge=0, le=65536)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    members: int = Field(default=5, ge=2, le=100)
    mean_field_sweeps: int = Field(default=10, ge=1, le=1000)
    chains: int = Field(default=10, ge=1, le=10_000)
    chain_sweeps: int = Field(default=2, ge=1, le=1000)
    steps: int = Field(default=100, ge=10, le=100_000)
    max_exact_labels: int = Field(default=24, ge=1, le=40)
    penalties: tuple[Strength, ...] = Field(default=(0.01, 0.03, 0.1, 0.3, 1.0), min_length=1)
    pairwise_penalties: tuple[Strength, ...] = Field(default=(1e-4, 1e-3, 1e-2), min_length=1)
    pairwise_l1: tuple[Size, ...] = Field(default=(0.0,), min_length=1)
    pos_weight: Strength = 1.0
    focus_positive: Size = 0.0
    focus_negative: Size = 0.0
    margin: float = Field(default=0.0, ge=0, lt=1)
    tolerance: Strength = 1e-6
    exact_tolerance: Strength = 1e-3
    epochs: int = Field(default=10, ge=1)
    learning_rate: Strength = 1e-3
    batch_size: int = Field(default=64, ge=1)
    accumulate: int = Field(default=1, ge=1, le=4096)
    precision: Precision = Precision.AUTO
    weight_decay: float = Field(default=0.05, ge=0, allow_inf_nan=False)
    seed: int = Field(default=0, ge=0, lt=2**63)


def make_settings(
    config: Path | None = None, overrides: tuple[str, ...] = (), **given: Any
) -> TrainSettings:
    """Settings from a JSON file, then `key=value` texts, then named values; the later wins.

    Args:
        given: values by name; None means not given.

    Raises:
        SettingsError: no such file, no JSON object, an unknown key or a value out of range.
    """
    in_file = _load_config(config) if config else {}
    later: dict[str, Any] = {}
    for text in overrides:
        key, sign, value = text.partition("=")
        if not sign:
            raise SettingsError(f"--set {' '.join(text.split())}: expected key=value")
        later[key.strip()] = _parsed(value.strip())
    later |= {key: value for key, value in given.items() if value is not None}
    values = in_file | later
    source = {key: "" if key in later else f"{config}: " for key in values}
    for key in values:
        if key not in TrainSettings.model_fields:
            close = get_close_matches(key, TrainSettings.model_fields, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise SettingsError(f"{source[key]}unknown setting {key!r}{hint}")
    try:
        return TrainSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        got = reprlib.repr(first["input"])
        raise SettingsError(
            f"{source[str(first['loc'][0])]}setting {name}: {first['msg']}, got {got}"
        ) from None


def _load_config(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{path}: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: expected a JSON object of settings")
    return values


def _parsed(text: str) -> Any:
    """A value as JSON where it is that, else as text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
