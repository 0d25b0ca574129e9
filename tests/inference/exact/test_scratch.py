"""Memory that is used again: never by two at a time, and no more of it kept than is said."""

import torch

from mlcrf.inference import Exact
from mlcrf.inference.exact import scratch
from mlcrf.inference.exact.scratch import borrow_scratch
from tests.making import close, make_potentials


class User:
    """Something to borrow for."""


def test_the_next_user_gets_what_the_last_one_had() -> None:
    """Given back as its user goes, and held by one user at a time."""
    scratch._idle.clear()
    first, second = User(), User()
    of_first, of_second = borrow_scratch(first), borrow_scratch(second)
    assert of_first is not of_second
    array = of_first.take("weights", (3, 5), torch.empty(0))
    assert of_first.take("weights", (2, 6), torch.empty(0)).data_ptr() == array.data_ptr()
    assert of_first.take("weights", (2, 6), torch.empty(0).double()).data_ptr() != array.data_ptr()
    del first
    third = User()
    assert borrow_scratch(third) is of_first
    del second, third
    assert len(scratch._idle) == 1


def test_no_more_is_kept_than_is_said() -> None:
    """Arrays beyond half a gigabyte go back to the system."""
    scratch._idle.clear()
    user = User()
    borrow_scratch(user).take("weights", (scratch._IDLE_BYTES // 4 + 1,), torch.empty(0))
    del user
    assert scratch._idle == []


def test_two_models_whose_gradients_are_taken_late() -> None:
    """Each keeps its own kernel until the backward pass, whatever was summed in between."""
    first, second = (make_potentials(6, 8, unary=1.0, pairwise=1.0, seed=seed) for seed in (1, 2))
    wanted = []
    for one in (first, second):
        pairwise = one.pairwise.clone().requires_grad_()
        Exact()(type(one)(one.unary, one.edges, pairwise)).log_partition.sum().backward()
        wanted.append(pairwise.grad)
    late = [one.pairwise.clone().requires_grad_() for one in (first, second)]
    sums = [
        Exact()(type(one)(one.unary, one.edges, pairwise)).log_partition.sum()
        for one, pairwise in zip((first, second), late, strict=True)
    ]
    for one in sums:
        one.backward()
    for pairwise, grad in zip(late, wanted, strict=True):
        assert pairwise.grad is not None
        assert grad is not None
        close(pairwise.grad, grad, 1e-12)
