"""Decisions on the tags of a review's photos: from answers, a promise, probabilities or costs."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mlcrf.decoding import Costs, minimise_expected_cost
from mlcrf.decoding.admissible import Admissible
from mlcrf.errors import SettingsError
from mlcrf.review.answer_table import AnswerTable
from mlcrf.review.answers import YES
from mlcrf.review.belief_table import BeliefTable
from mlcrf.review.promise import Promise
from mlcrf.rules import Rules


@dataclass(frozen=True)
class TagDecisions:
    """The tags that photos have by what is answered, believed and promised at the moment.

    Not safe to use from several threads.

    Attributes:
        rules: of the model, between its labels.
        promise: of the model's tags of these photos; None promises nothing.
        costs: of wrong decisions on the model's tags; None knows none.
        num_known: number of the model's tags, which come first.
    """

    answers: AnswerTable
    beliefs: BeliefTable
    rules: Rules
    promise: Promise | None
    costs: Costs | None
    num_known: int

    def decide(self, least: float | None, *, promised: bool, at_least_cost: bool) -> Tensor:
        """Return which tags each photo has (N, L).

        Args:
            least, promised, at_least_cost: see `Review.decided`.

        Raises:
            SettingsError: there is no promise, or there is one and `least` would break it; there
                are no costs.
        """
        if promised and self.promise is None:
            raise SettingsError("this page promises nothing; start it with --precision or --recall")
        if least is not None and self.promise is not None:
            raise SettingsError(
                f"this page promises {self.promise.text.asked}, which a probability does not keep; "
                "write the promised tags, or start it without the promise"
            )
        if at_least_cost and self.costs is None:
            raise SettingsError("this page knows no costs; start it with --costs FILE")
        table, marginals = self.answers, self.beliefs.marginals.nan_to_num(0.0)
        has = table.known == YES
        rules = self.rules.at_most
        allowed = Admissible(torch.from_numpy(rules.close(table.known.numpy())), rules)
        if promised:
            has |= self.promised()
        if least is not None:
            has |= ~table.answered & (self.beliefs.marginals >= least)
        if at_least_cost and self.costs is not None:
            own = table.keys[self.num_known :]  # of which no costs are known
            states, _ = minimise_expected_cost(marginals, self.costs.and_never(own), allowed)
            has |= ~table.answered & (states == YES)
        has = allowed.fit(has.long(), marginals) == 1
        return has & table.shown

    def promised(self) -> Tensor:
        """Return the tags without an answer that the promise covers (N, L)."""
        if self.promise is None:
            return torch.zeros_like(self.answers.answered)
        return self.promise.open_tags(self.answers.answered, self.beliefs.marginals)

    def sure(self, label: int) -> Tensor | None:
        """Return which photos surely have a tag by a promised precision; None without one (N,)."""
        if self.promise is None or not self.promise.covers_sure:
            return None
        return self.promised()[:, label]
