"""A simulated person, and what is counted of the estimates that follow from the answers."""

import numpy as np
import pytest
import torch

from experiments.teach import estimates
from experiments.teach.learners import OurLearner, World
from experiments.teach.person import teach


@pytest.mark.parametrize(
    ("way", "answered"), [("page", 120), ("page in bulk", 320), ("confirming", 280)]
)
def test_estimates_on_an_archive_of_numbers(way: str, answered: int) -> None:
    """Each way of answering gives as many answers as its cost allows, and all truths count."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 6)).astype(np.float32)
    truth = torch.from_numpy(features[:, :2] + 0.5 * rng.normal(size=(400, 2)) > 0.3).long()
    world = World(["sea", "sky"], features, truth, features, truth.numpy().astype(np.int8), None)
    learner, order = OurLearner(world, coupled=True), estimates.WAYS[way]
    ((mark, answers),) = teach(learner, world, order, [120], seed=0)
    assert torch.equal(answers[answers >= 0], truth[answers >= 0])
    assert int((answers >= 0).sum()) == pytest.approx(answered, rel=0.2)
    at = {"way": way, "start": "nothing", "answers": mark}
    found = estimates.summarise([at | one for one in estimates.check(learner, world, answers)])
    (row,) = found["rows"]
    assert row["says"] == 1.0
    # medians of two tags are their means
    assert 2 * (row["right_truth"] + row["missed_truth"]) == int(truth[answers < 0].sum())
    assert [one["label"] for one in found["labels"]] == ["sea", "sky"]
    assert f"| {way} | nothing | 120 | 100% | 2 |" in estimates.tables(found)["times"]
