"""A simulated person who answers from the truth, in several orders."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.teach.learners import Learner, World
from mlcrf.labels import UNKNOWN

_SPOT_CHECKS = 5  # every so many questions about a tag one is about a photo drawn by chance
# Answers about several photos that are shown together: a look at all, and a mark at some.
_BULK_COST, _COST_EACH = 1.0, 0.25


@dataclass(frozen=True)
class Order:
    """An order of questions.

    Attributes:
        uncertain: the tags in turn, each about the photo whose probability is nearest 0.5; else
            pairs of tag and photo by chance.
        typical: a tag without a yes is asked about typical photos; else, the first time, about one
            drawn by chance.
        spot_checks: every fifth question of a tag is about a photo drawn by chance.
        at_once: photos of a tag that are shown together.
    """

    uncertain: bool = True
    typical: bool = False
    spot_checks: bool = False
    at_once: int = 1

    @property
    def cost(self) -> float:
        """Cost of the answers about the photos that are shown together, in single answers."""
        return 1.0 if self.at_once == 1 else _BULK_COST + _COST_EACH * self.at_once


def teach(
    learner: Learner, world: World, order: Order, marks: list[int], seed: int
) -> Iterator[tuple[int, Tensor]]:
    """Yield the answers just before they cost more than each mark, learned from, and the mark.

    Ours is fitted again after a question about each tag. Chance is the same for all orders.
    """
    generator = torch.Generator().manual_seed(seed)
    chance = torch.rand(world.truth.shape, generator=generator)
    chance[:, : world.num_known] = -1  # what the model knows is not asked
    answers = torch.full_like(world.truth, UNKNOWN)
    questions = _uncertain(learner, world, answers, chance, order)
    if not order.uncertain:
        questions = _random(chance)
    cost = 0.0
    for mark in marks:
        while cost + order.cost <= mark:
            photos, tag = next(questions)
            answers[photos, tag] = world.truth[photos, tag]
            cost += order.cost
        learner.learn(answers)
        yield mark, answers


def _random(chance: Tensor) -> Iterator[tuple[Tensor, int]]:
    for pair in chance.flatten().argsort(descending=True).tolist():
        photo, tag = divmod(pair, chance.shape[1])
        yield torch.tensor([photo]), tag


def _uncertain(
    learner: Learner, world: World, answers: Tensor, chance: Tensor, order: Order
) -> Iterator[tuple[Tensor, int]]:
    """Yield photos to ask about a tag, the tags in turn; learn after each turn."""
    typical = torch.zeros(len(answers))
    typical[world.typical] = torch.arange(len(world.typical), 0, -1.0)
    turn = 0
    while True:
        learner.learn(answers)
        marginals = learner.marginals(answers).float()
        for tag in range(world.num_known, answers.shape[1]):
            given = answers[:, tag]
            uncertain = -(marginals[:, tag] - 0.5).abs()
            if order.spot_checks and turn % _SPOT_CHECKS == _SPOT_CHECKS - 1:
                rank = chance[:, tag]
            elif order.typical and not bool((given == 1).any()):
                rank = typical + uncertain
            elif bool((given == UNKNOWN).all()):
                rank = chance[:, tag]
            else:
                rank = uncertain
            rank = rank.masked_fill(given != UNKNOWN, -torch.inf)
            yield rank.topk(order.at_once).indices, tag
        turn += 1
