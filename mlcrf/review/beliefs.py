"""Beliefs about photos, quickly enough for a person who waits for them."""

from collections.abc import Iterator
from threading import Lock

import torch
from torch import Tensor

from mlcrf.crf import UNKNOWN, Potentials
from mlcrf.inference import (
    Exact,
    Gibbs,
    Independent,
    InferenceMethod,
    JunctionTree,
    PreparedExact,
    Tap,
    prepare,
)
from mlcrf.inference.automatic import ExactOrGibbs
from mlcrf.inference.explanation import Explanation, explain_label
from mlcrf.inference.gibbs_sampling import Draws
from mlcrf.inference.questions import (
    answer_information,
    count_pairs,
    label_entropy,
    pair_marginals,
)
from mlcrf.model import LabelCrf

_QUICK_LABELS = 20  # enumerated for one photo in 30 ms; 24 take ten times as long
_AT_ONCE = 64  # photos whose samples are in memory together: 24 MB with 374 labels
_SURVEYED_AT_ONCE = 2048  # photos
_MOST_SURVEYED = 2**31  # states of all photos together, which take about a second
_SURVEY = Tap(max_sweeps=30, tolerance=1e-3, damping=0.3, second_start=False)
_FEW = 64  # unknown labels; whether more can be inferred exactly takes long to find out


class Beliefs:
    """Inference for single photos; safe to use from several threads.

    Gibbs samples without log Z, and gives a photo the same random stream each time, so that an
    answer moves only what depends on it. `ExactOrGibbs` infers a photo exactly where that is quick.
    Methods that would clamp each label in turn for the information of answers count only each
    label's own entropy if there are more than 64 labels.

    Args:
        crf: the model that the potentials are of; needed to map evidence.
    """

    def __init__(
        self, method: InferenceMethod, potentials: Potentials, crf: LabelCrf | None = None
    ) -> None:
        self._potentials, self.crf = potentials, crf
        self.num_labels = potentials.num_labels
        self.rules = potentials.rules
        if isinstance(method, ExactOrGibbs):
            method = ExactOrGibbs(min(method.max_exact_labels, _QUICK_LABELS), method.gibbs)
        self._unprepared, self._method = method, prepare(method, potentials)
        self._alone = Lock()  # the buffers of `PreparedExact` are shared
        self._last: tuple[Tensor, Tensor, Draws] | None = None

    def marginals(self, rows: Tensor, known: Tensor) -> tuple[Tensor, str]:
        """Return P(label present | answers) of some photos, float64 (n, L), and advice.

        Args:
            rows: numbers of the photos (n,).
            known: 1, 0 or -1 for unknown (n, L).

        Returns:
            The marginals, and options to try if inference did not converge for some photos.
        """
        found = torch.empty(known.shape, dtype=torch.float64)
        advice = ""
        for method, at in self._parts(rows, known):
            if isinstance(method, Gibbs):
                failed = 0
                for part in torch.split(at, _AT_ONCE):
                    draws = self._draw(method, rows[part], known[part])
                    found[part] = draws.marginals.double()
                    failed += int((~draws.converged).sum())
                if failed:
                    advice = _UNMIXED.format(failed=failed, number=len(at))
            else:
                with self._alone:
                    posterior = method(self._potentials.rows(rows[at]), known=known[at])
                found[at], advice = posterior.marginals.double(), posterior.advice or advice
        return found, advice

    @torch.no_grad()
    def survey(self, known: Tensor) -> tuple[Tensor, bool]:
        """Return the marginals of all photos, and whether `marginals` would be more accurate.

        TAP where exact inference takes too long for so many photos, and in place of samples.

        Args:
            known: 1, 0 or -1 for unknown (N, L).

        Cost: 0.3 ms per photo with 50 labels.
        """
        method, count = self._method, len(known)
        is_quick = isinstance(method, JunctionTree | Independent) or (
            isinstance(method, Exact | PreparedExact)
            and count * 2**self.num_labels <= _MOST_SURVEYED
        )
        survey = method if is_quick else _SURVEY
        found = torch.empty(known.shape, dtype=torch.float64)
        with self._alone:
            for rows in torch.split(torch.arange(count), _SURVEYED_AT_ONCE):
                posterior = survey(self._potentials.rows(rows), known=known[rows])
                found[rows] = posterior.marginals.double()
        return found, not is_quick

    def information(self, rows: Tensor, known: Tensor) -> Tensor:
        """Return the information of an answer about each label in nats, float64 (n, L)."""
        found = torch.empty(known.shape, dtype=torch.float64)
        for method, at in self._parts(rows, known):
            some = self._potentials.rows(rows[at])
            if isinstance(method, Gibbs):
                draws = self._draw(method, rows[at], known[at])
                found[at] = answer_information(count_pairs(draws.marginals, draws.samples))
            elif isinstance(method, (Exact, PreparedExact, JunctionTree)) or known.shape[1] <= _FEW:
                with self._alone:
                    pairs = pair_marginals(prepare(method, some), some, known=known[at])
                found[at] = answer_information(pairs)
            else:
                found[at] = label_entropy(self.marginals(rows[at], known[at])[0])
        return found

    def explain(self, row: int, label: int, known: Tensor) -> Explanation:
        """Return the parts of a label's log-odds in a photo; nothing waits for it.

        Args:
            known: of this photo (L,).

        Raises:
            PotentialsError: the model is a mixture over scenes.
        """
        others = known[None].clone()
        others[:, label] = UNKNOWN
        rows = torch.tensor([row])
        method, _ = next(self._parts(rows, others))
        if method is self._method:
            method = self._unprepared  # whose buffers are its own
        some = self._potentials.rows(rows)
        return explain_label(method, some, label, known=others, image=row)

    def _draw(self, method: Gibbs, rows: Tensor, known: Tensor) -> Draws:
        """Sample, unless these photos were the last, as after an answer about one."""
        last = self._last
        if last is not None and torch.equal(last[0], rows) and torch.equal(last[1], known):
            return last[2]
        draws = method.draw(self._potentials.rows(rows), known=known, images=rows)
        if len(rows) == 1:
            self._last = rows, known.clone(), draws
        return draws

    def _parts(self, rows: Tensor, known: Tensor) -> Iterator[tuple[InferenceMethod, Tensor]]:
        """Yield each method that is needed, with the positions of its photos."""
        if not isinstance(self._method, ExactOrGibbs):
            yield self._method, torch.arange(len(rows))
            return
        is_few = (known == UNKNOWN).sum(1) <= _FEW
        few, many = is_few.nonzero().squeeze(1), (~is_few).nonzero().squeeze(1)
        for method, at in self._method.split(self._potentials.rows(rows[few]), known[few]):
            if len(at):
                yield method, few[at]
        if len(many):
            yield self._method.gibbs, many


_UNMIXED = (
    "gibbs: the chains of {failed} of {number} photos do not agree or are short; their "
    "probabilities may be off. Try --inference exact or junction-tree of train"
)
