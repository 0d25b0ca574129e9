"""A simulated person who answers from the truth, in several orders."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.teach.learners import Learner, World
from mlcrf.labels import UNKNOWN

_SPOT_CHECKS = 5  # every so many questions about a tag one is about a photo drawn by chance
_CONFIRMED = 5  # turns of which one is a question, where likely photos are confirmed
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
        confirms: a tag with a yes is asked about its likeliest photos, so many at once, in four of
            five turns; all other questions are about one photo.
    """

    uncertain: bool = True
    typical: bool = False
    spot_checks: bool = False
    at_once: int = 1
    confirms: bool = False


PAGE, RANDOM = Order(typical=True, spot_checks=True), Order(uncertain=False)


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
    photos, tag = next(questions)
    cost = _cost(photos)
    for mark in marks:
        while cost <= mark:
            answers[photos, tag] = world.truth[photos, tag]
            photos, tag = next(questions)
            cost += _cost(photos)
        learner.learn(answers)
        yield mark, answers


def _cost(photos: Tensor) -> float:
    """Return the cost of answers about photos that are shown together, in single answers."""
    return 1.0 if len(photos) == 1 else _BULK_COST + _COST_EACH * len(photos)


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
            has_yes = bool((given == 1).any())
            asked = turn // _CONFIRMED if order.confirms else turn
            confirms = order.confirms and has_yes and turn % _CONFIRMED != _CONFIRMED - 1
            if confirms:
                rank = marginals[:, tag]
            elif order.spot_checks and asked % _SPOT_CHECKS == _SPOT_CHECKS - 1:
                rank = chance[:, tag]
            elif order.typical and not has_yes:
                rank = typical + uncertain
            elif bool((given == UNKNOWN).all()):
                rank = chance[:, tag]
            else:
                rank = uncertain
            rank = rank.masked_fill(given != UNKNOWN, -torch.inf)
            count = 1 if order.confirms and not confirms else order.at_once
            yield rank.topk(count).indices, tag
        turn += 1
