"""A model of label sets without the limit to pairs: autoregressive networks in several orders.

    p(y | x) = mean over orders of prod_i p(y_i | earlier labels, x)

Each order is a masked network with one hidden layer (Germain et al. 2015, MADE), which can learn
terms of any order. The log-probability of a set is exact; marginals are means of conditional
probabilities over drawn sets.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from experiments.beyond_pairwise.unaries import Photos

_HIDDEN = 256
_BATCH = 250
_RATE = 5e-3
_DROPOUT = 0.3


class AutoregressiveNetwork(nn.Module):
    """Log-odds in one order: of each label given log-odds of all and the labels before it."""

    def __init__(self, odds: Tensor, order: Tensor) -> None:
        super().__init__()
        num_labels = len(order)
        self.order, self.rank = order, order.argsort()
        self.mean, self.spread = odds.mean(0), odds.std(0)
        self.of_odds = nn.Linear(num_labels, _HIDDEN)
        self.of_labels = nn.Linear(num_labels, _HIDDEN, bias=False)
        self.out = nn.Linear(_HIDDEN, num_labels)
        self.straight = nn.Linear(num_labels, num_labels)
        self.pairs = nn.Linear(num_labels, num_labels, bias=False)
        self.dropout = nn.Dropout(_DROPOUT)
        for one in (self.out, self.straight, self.pairs):
            nn.init.zeros_(one.weight)
        nn.init.zeros_(self.out.bias)
        nn.init.zeros_(self.straight.bias)
        # a hidden unit of degree d sees the first d labels; the label of rank d sees units up to d
        degree = torch.arange(_HIDDEN) % num_labels
        self.seen = (self.rank < degree[:, None]).float()
        self.given = (degree <= self.rank[:, None]).float()
        self.before = (self.rank < self.rank[:, None]).float()

    def forward(self, odds: Tensor, labels: Tensor) -> Tensor:
        """Return log-odds (N, L)."""
        inputs, y = ((odds - self.mean) / self.spread).float(), labels.float()
        hidden = self.of_odds(inputs) + functional.linear(y, self.of_labels.weight * self.seen)
        found = functional.linear(
            self.dropout(hidden.relu()), self.out.weight * self.given, self.out.bias
        )
        found = (
            found + self.straight(inputs) + functional.linear(y, self.pairs.weight * self.before)
        )
        return odds.float() + found

    def log_prob(self, odds: Tensor, labels: Tensor) -> Tensor:
        """Return log p(y | x) (N,)."""
        logits = self(odds, labels)
        lost = functional.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none")
        return -lost.sum(-1)


def fit_order(
    photos: Photos, held_out: Photos, *, seed: int, decay: float, epochs: int
) -> AutoregressiveNetwork:
    """Fit one order by AdamW; keeps the epoch of least loss on photos held out."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = AutoregressiveNetwork(photos.odds, torch.randperm(photos.targets.shape[1]))
        optimiser = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
        least, best = float("inf"), network.state_dict()
        for _ in range(epochs):
            network.train()
            for batch in torch.randperm(len(photos)).split(_BATCH):
                loss = -network.log_prob(photos.odds[batch], photos.targets[batch]).mean()
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            schedule.step()
            network.eval()
            with torch.no_grad():
                lost = -float(network.log_prob(held_out.odds, held_out.targets).mean())
            if lost < least:
                least, best = lost, copy.deepcopy(network.state_dict())
    network.load_state_dict(best)
    return network.eval()


@torch.no_grad()
def mixture_log_prob(networks: list[AutoregressiveNetwork], odds: Tensor, labels: Tensor) -> Tensor:
    """Return the log-probability of label sets under the mean of all orders (N,)."""
    each = torch.stack([one.log_prob(odds, labels) for one in networks])
    return each.double().logsumexp(0) - torch.tensor(float(len(networks))).log()


@torch.no_grad()
def draw(
    network: AutoregressiveNetwork, odds: Tensor, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw label sets, int8 (count, n, L), with the probability of each label when it was drawn."""
    many = odds.repeat(count, 1)
    labels = torch.zeros(many.shape)
    probabilities = torch.zeros(many.shape)
    for label in network.order.tolist():
        p = network(many, labels)[:, label].sigmoid()
        probabilities[:, label] = p
        labels[:, label] = (torch.rand(len(p), generator=generator) < p).float()
    shape = (count, *odds.shape)
    return labels.to(torch.int8).view(shape), probabilities.view(shape)
