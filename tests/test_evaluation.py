"""Notes on how an evaluation was made; its scores are tested with the commands."""

from types import SimpleNamespace
from typing import Any

import torch

from mlcrf.evaluation import _notes, _split_notes
from mlcrf.inference import Exact, Gibbs, LogPartitionKind, Posterior
from mlcrf.inference.automatic import ExactOrGibbs
from tests.making import draw_known, make_potentials


def test_a_log_z_without_support_is_noted() -> None:
    """The nll rests on it, whatever the marginals are."""
    run: Any = SimpleNamespace(make_inference=Gibbs)
    posterior = Posterior(
        marginals=torch.zeros(3, 2),
        log_partition=torch.zeros(3),
        log_partition_kind=LogPartitionKind.ESTIMATE,
        converged=torch.ones(3, dtype=torch.bool),
        log_partition_error=torch.tensor([0.1, torch.inf, 0.2], dtype=torch.float64),
    )
    assert _notes(run, Gibbs(), posterior) == [
        "nll of the crf rests on a log Z that is an estimate",
        "log Z is not known for 1 of 3 images: do not use the nll",
    ]


def test_what_auto_inferred_exactly_is_noted() -> None:
    """Predictions know nothing; targets that are partly known shrink the sum of some images."""
    potentials, method = make_potentials(5, 8), ExactOrGibbs(4, Gibbs())
    known = draw_known(potentials, num_unknown=3)
    known[0] = -1
    predicted = "exact-or-gibbs: all images were predicted by gibbs, with nothing known"
    summed = "; unknown targets were summed out exactly for 4 of 5 images"
    assert list(_split_notes(method, potentials, known)) == [predicted + summed]
    everything = draw_known(potentials, num_unknown=0)
    assert list(_split_notes(method, potentials, everything)) == [predicted]
    assert list(_split_notes(Exact(), potentials, known)) == []
