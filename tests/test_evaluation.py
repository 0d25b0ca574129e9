"""Notes on how an evaluation was made; its scores are tested with the commands."""

from types import SimpleNamespace
from typing import Any

import torch

from mlcrf.evaluation import _notes
from mlcrf.inference import Gibbs, LogPartitionKind, Posterior


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
