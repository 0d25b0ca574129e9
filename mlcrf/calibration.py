"""Calibration images of a run: what both models say of them, and what is true."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mlcrf import atomic
from mlcrf.crf import UNKNOWN, Potentials
from mlcrf.decoding import Decoder
from mlcrf.errors import RunError, reason_of
from mlcrf.inference import InferenceMethod, Posterior, log_mass
from mlcrf.inference.ranking import SLACK, Standing
from mlcrf.shipped_models import is_shipped
from mlcrf.tempering import Factors

CALIBRATION = "calibration.safetensors"
Model = Literal["crf", "independent"]
MOST_IMAGES = 20_000  # kept of a larger set, drawn at random


class Surprises(NamedTuple):
    """Negative log-probabilities of label sets of N images under the CRF, in nats.

    Attributes:
        observed: those of the right label sets; NaN where a label is unknown (N,).
        likeliest: those of the most probable label sets (N,).
    """

    observed: Tensor
    likeliest: Tensor


@dataclass(frozen=True)
class Adjustment:
    """Change of a model that its calibration images ask for.

    Attributes:
        factors: what multiplies its potentials when the run is loaded; see `mlcrf.tempering`.
        decoders: its tuned decisions, with these factors.
    """

    factors: Factors
    decoders: tuple[Decoder, ...] = ()


_ADJUSTMENTS = TypeAdapter(dict[Model, Adjustment])


@dataclass(frozen=True)
class Calibration:
    """Marginals and targets of N images that the model was not fitted to.

    Attributes:
        marginals: P(y_i = 1) of `crf` and `independent`, as adjusted, float32 (N, L).
        targets: 1, 0, or -1 for unknown, int8 (N, L).
        data: name of the images.
        of_final: whether the marginals are those of the run's own weights. Else they are those of
            the same model fitted to training images only, before the fit to all images.
        run: SHA-256 of the run's weights.
        digest: SHA-256 of the file; empty if there is none yet.
        adjustments: by model; models without one are used as they were learned.
        standings: of `crf` and `independent`, the places of the right label sets among all (N,);
            NaN for images of which not all labels are known. Empty in files of older versions.
        surprises: of the CRF, float32; None in files of older versions.
    """

    marginals: dict[str, Tensor]
    targets: Tensor
    data: str
    of_final: bool
    run: str = ""
    digest: str = ""
    adjustments: dict[Model, Adjustment] = field(default_factory=dict)
    standings: dict[str, Standing] = field(default_factory=dict)
    surprises: Surprises | None = None

    @property
    def name(self) -> str:
        """The name of the data, and the first digits of the digest."""
        return f"{self.data}@{self.digest[:12]}"

    def thinned(self, seed: int) -> "Calibration":
        """Return the same with at most 20,000 images, drawn at random."""
        if len(self.targets) <= MOST_IMAGES:
            return self
        drawn: NDArray[np.int64] = np.random.default_rng(seed).permutation(len(self.targets))
        rows = torch.from_numpy(np.sort(drawn[:MOST_IMAGES]))
        marginals = {model: values[rows] for model, values in self.marginals.items()}
        standings = {
            model: Standing(*(value[rows] for value in one))
            for model, one in self.standings.items()
        }
        surprises = None
        if self.surprises is not None:
            surprises = Surprises(*(one[rows] for one in self.surprises))
        return replace(
            self,
            marginals=marginals,
            targets=self.targets[rows],
            standings=standings,
            surprises=surprises,
        )


def measure_surprises(
    method: InferenceMethod, potentials: Potentials, posterior: Posterior, targets: Tensor
) -> Surprises:
    """Return how surprising the right and the most probable label sets are, float64.

    Args:
        posterior: result of `method` on `potentials`.
        targets: 1, 0, or -1 for unknown, int64 (N, L).

    Cost: that of a MAP search, and of the score of two label sets.
    """
    is_whole = (targets != UNKNOWN).all(-1)
    observed = torch.full(is_whole.shape, torch.nan, dtype=torch.float64)
    likeliest = method.map_states(potentials)
    log_partition = posterior.log_partition.double()
    if bool(is_whole.any()):
        rows = is_whole.nonzero().squeeze(1)
        score = log_mass(method, potentials.rows(rows), targets[rows]).double()
        observed[rows] = log_partition[rows] - score
    return Surprises(observed, log_partition - log_mass(method, potentials, likeliest).double())


def save_calibration(folder: Path, calibration: Calibration) -> Calibration:
    """Write the file of a run directory atomically, and return the calibration with its digest."""
    tensors = {name: value.float().contiguous() for name, value in calibration.marginals.items()}
    about = {
        "data": calibration.data,
        "of_final": calibration.of_final,
        "run": calibration.run,
        **({"adjustments": _record(calibration.adjustments)} if calibration.adjustments else {}),
    }
    for model, standing in calibration.standings.items():
        tensors |= {
            f"{model}.{part}": value.double().contiguous()
            for part, value in standing._asdict().items()
        }
    if calibration.surprises is not None:
        for name, value in calibration.surprises._asdict().items():
            tensors[f"surprise.{name}"] = value.float().contiguous()
    content = save(
        {**tensors, "targets": calibration.targets.to(torch.int8).contiguous()},
        {"about": json.dumps(about)},
    )
    atomic.write_bytes(folder / CALIBRATION, content)
    return replace(calibration, digest=hashlib.sha256(content).hexdigest())


def load_calibration(folder: Path, *, run: str, num_labels: int) -> Calibration:
    """Load the calibration images of a run directory.

    Args:
        run: SHA-256 of the run's weights.

    Raises:
        RunError: there are none, they are of other weights, or the file is damaged.
    """
    path = folder / CALIBRATION
    name, calibrate = _remedy(folder)
    if not path.exists():
        raise RunError(
            f"{name}: has no calibration images, which promises and `mlcrf drift` need; "
            f"give it some: {calibrate}"
        )
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["about"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        data, of_final, made_for = str(about["data"]), bool(about["of_final"]), about["run"]
        adjustments = _read_adjustments(about)
        targets = tensors.pop("targets")
        marginals = {model: tensors[model] for model in ("crf", "independent")}
        shapes = {tuple(one.shape) for one in (targets, *marginals.values())}
        if shapes != {(len(targets), num_labels)}:
            raise ValueError(f"expected columns of {num_labels} labels")
        if not all(bool(((one >= 0) & (one <= 1)).all()) for one in marginals.values()):
            raise ValueError("a probability is not between 0 and 1")
        standings = _read_standings(tensors, len(targets))
        surprises = _read_surprises(tensors, len(targets))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = reason_of(error)
        raise RunError(f"{path}: damaged: {reason}; make it again: {calibrate}") from error
    if made_for != run:
        raise RunError(f"{path}: was made for other weights; make it again: {calibrate}")
    return Calibration(
        marginals, targets, data, of_final, run, digest, adjustments, standings, surprises
    )


def load_adjustments(folder: Path, *, run: str) -> dict[Model, Adjustment]:
    """Load what the calibration images of a run directory change of its models.

    Args:
        run: SHA-256 of the run's weights.

    Raises:
        RunError: they are of other weights, or the file is damaged.
    """
    path = folder / CALIBRATION
    if not path.exists():
        return {}
    _, calibrate = _remedy(folder)
    try:
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["about"])
        adjustments, made_for = _read_adjustments(about), about["run"]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = reason_of(error)
        raise RunError(f"{path}: damaged: {reason}; make it again: {calibrate}") from error
    if adjustments and made_for != run:
        raise RunError(f"{path}: was made for other weights; make it again: {calibrate}")
    return adjustments


def _remedy(folder: Path) -> tuple[str, str]:
    """Return the name of a run, and the command that gives it calibration images."""
    name, out = (folder.name, " --out NEW") if is_shipped(folder) else (str(folder), "")
    return name, f"mlcrf calibrate {name} DATA{out}"


def _record(adjustments: dict[Model, Adjustment]) -> dict[str, Any]:
    return {
        model: {
            "factors": asdict(one.factors),
            "decoders": [decoder.record() for decoder in one.decoders],
        }
        for model, one in adjustments.items()
    }


def _read_adjustments(about: dict[str, Any]) -> dict[Model, Adjustment]:
    return _ADJUSTMENTS.validate_python(about.get("adjustments", {}))


def require_standings(folder: Path, calibration: Calibration, model: str) -> Standing:
    """Return the places of the right label sets, for which families of label sets ask.

    Raises:
        RunError: there are none, or of no image all labels are known.
    """
    path = folder / CALIBRATION
    _, calibrate = _remedy(folder)
    if model not in calibration.standings:
        raise RunError(
            f"{path}: has no scores of label sets, which --coverage needs; make it again: "
            f"{calibrate}"
        )
    standing = calibration.standings[model]
    if bool(standing.ahead.isnan().all()):
        raise RunError(
            f"{path}: no calibration image has all of its labels known, which --coverage needs; "
            f"give it such images: {calibrate}"
        )
    return standing


def _read_standings(tensors: dict[str, Tensor], num_images: int) -> dict[str, Standing]:
    standings = {}
    for model in ("crf", "independent"):
        if f"{model}.ahead" in tensors:
            one = Standing(*(tensors[f"{model}.{part}"] for part in Standing._fields))
            if any(part.shape != (num_images,) for part in one):
                raise ValueError(f"expected scores of label sets of {num_images} images")
            if any(bool(((part < 0) | (part > 1 + SLACK)).any()) for part in one):
                raise ValueError("a probability is not between 0 and 1")
            standings[model] = one
    return standings


def _read_surprises(tensors: dict[str, Tensor], num_images: int) -> Surprises | None:
    if "surprise.observed" not in tensors:
        return None
    surprises = Surprises(*(tensors[f"surprise.{name}"] for name in Surprises._fields))
    if any(one.shape != (num_images,) or bool(one.isinf().any()) for one in surprises):
        raise ValueError(f"expected finite surprises of {num_images} images")
    return surprises
