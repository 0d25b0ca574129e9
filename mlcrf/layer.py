"""The CRF as a layer of anybody's network, above its logits."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import torch
from torch import Tensor, nn

from mlcrf.choices import Decision, InferenceName, Reduction, Structure
from mlcrf.crf import (
    IMPOSSIBLE,
    UNKNOWN,
    Potentials,
    check_known,
    keep_rules_in_state,
)
from mlcrf.crf.edges import edges_of_structure
from mlcrf.decoding import Decoder, DrawsLabels
from mlcrf.errors import (
    LabelsError,
    MlcrfWarning,
    PotentialsError,
    SettingsError,
    TooManyLabelsError,
)
from mlcrf.hints import choose, did_you_mean
from mlcrf.inference import (
    AnnealedImportanceSampling,
    Gibbs,
    Independent,
    InferenceMethod,
    MeanField,
    Posterior,
    count_states,
    log_mass,
    make_inference,
)
from mlcrf.inference.automatic import ExactOrGibbs
from mlcrf.inference.exact.differentiation import Refused
from mlcrf.rules import Pair, Rules

_EDGES = (Structure.FULL, Structure.INDEPENDENT, Structure.TREE, Structure.SPARSE)

Given = ParamSpec("Given")
Result = TypeVar("Result")
Choice = TypeVar("Choice", Decision, InferenceName, Reduction)
Method = Callable[Concatenate["MultiLabelCRF", Tensor, Given], Result]


def _exactly(method: Method[Given, Result]) -> Method[Given, Result]:
    """Let a method compute in the precision of its tensors, and let torch.compile pass it over."""

    @wraps(method)
    def computed(
        self: "MultiLabelCRF", logits: Tensor, /, *given: Given.args, **named: Given.kwargs
    ) -> Result:
        device = logits.device.type if isinstance(logits, Tensor) else "cpu"
        if not torch.amp.is_autocast_available(device):
            return method(self, logits, *given, **named)
        with torch.autocast(device, enabled=False):
            return method(self, logits, *given, **named)

    disabled: Method[Given, Result] = torch.compiler.disable(computed)  # type: ignore[no-untyped-call]
    return disabled


class MultiLabelCRF(nn.Module):
    """A CRF over label sets whose unaries are the logits of any network:

        p(y | logits) = exp(sum_i logits_i y_i + sum_{(i, j) in edges} pairwise_ij y_i y_j) / Z
        loss          = -log p(known labels | logits),    unknown labels summed out

    Couplings start at 0, where the loss is the binary cross-entropy, summed over labels.

        crf = MultiLabelCRF(num_labels)
        loss = crf(network(x), targets)
        marginals = crf.marginals(network(x))

    Logits may be of half precision, under autocast too: they are computed with in float32, or in
    float64 where they or the couplings are, which is the type of all results; gradients are of the
    logits' type. What is random follows `torch.manual_seed` unless a generator is given.

    Attributes:
        pairwise: the learned coupling of each edge, > 0 attracts (E,).
        edges: label pairs i < j, int64 (E, 2).
        rules: implications and limits; label sets that break a hard one have no probability.

    Args:
        edges: `full` (all pairs), `independent` (none), or pairs (E, 2); `from_targets` chooses a
            tree or the strongest pairs. A label and one that it implies get no edge unless given.
        rules: `Rules`, or implications as pairs (label, label that it implies), by number.
        inference: a name, or a method of `mlcrf.inference` with settings of its own. AUTO is exact
            where that is feasible, else Gibbs. `log_prob` and with it the loss are as exact as the
            method: by mean field it is the difference of two bounds, which is no bound.
        max_exact_labels: largest number of labels to enumerate.

    Raises:
        SettingsError, LabelsError, PotentialsError: an argument is wrong; the message names it.

    Cost: that of the method: exact enumeration takes 6 N 2^L operations for a step, a junction
    tree of width w about N L 2^w.
    """

    edges: Tensor

    def __init__(
        self,
        num_labels: int,
        *,
        edges: Structure | str | Tensor | Sequence[Pair] = Structure.FULL,
        rules: Rules | Sequence[Pair] = Rules(),
        inference: InferenceName | str | InferenceMethod = InferenceName.AUTO,
        max_exact_labels: int = 24,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_labels = _count("num_labels", num_labels)
        self.max_exact_labels = _count("max_exact_labels", max_exact_labels)
        self.rules = rules if isinstance(rules, Rules) else _implications(rules)
        if self.rules.num_labels > num_labels:
            raise LabelsError(
                f"rules: expected labels below {num_labels}, got {self.rules.num_labels - 1}"
            )
        self.inference: InferenceName | InferenceMethod
        if isinstance(inference, str) or not callable(inference):
            self.inference = _chosen("inference", inference, InferenceName)
        else:
            self.inference = inference
        log_states = count_states(num_labels, self.rules)
        if self.inference is InferenceName.EXACT and log_states > max_exact_labels:
            raise TooManyLabelsError(
                f"inference: exact over {num_labels} labels would enumerate "
                f"2**{math.ceil(log_states)} states, and max_exact_labels is {max_exact_labels}; "
                "use fewer edges and junction-tree, gibbs or mean-field, or raise max_exact_labels"
            )
        with torch.device("cpu"):  # edges are looked at, which a device without values forbids
            pairs = self._all(edges) if isinstance(edges, str) else _given(edges, num_labels)
        self.register_buffer("edges", pairs.to(device or torch.get_default_device()))
        self.pairwise = nn.Parameter(torch.zeros(len(pairs), device=device, dtype=dtype))
        keep_rules_in_state(self)

    @classmethod
    def from_targets(
        cls,
        targets: Tensor,
        *,
        edges: Structure | str = Structure.TREE,
        edges_per_label: int = 8,
        false_edges: float = 0.05,
        rules: Rules | Sequence[Pair] = Rules(),
        **settings: Any,
    ) -> Self:
        """Return a layer whose edges are chosen from training targets, by mutual information.

        Args:
            targets: 1 present, 0 absent, -1 or NaN unknown (N, L).
            edges: `tree`, the best tree over all labels, or `sparse`, each label's strongest
                partners; `full` and `independent` take nothing from the targets.
            edges_per_label: largest number of partners that a label chooses, for `sparse`.
            false_edges: expected share of the pairs of `sparse` that are related by chance only.
            settings: as of `MultiLabelCRF`.
        """
        if not isinstance(targets, Tensor) or targets.ndim != 2:
            found = tuple(targets.shape) if isinstance(targets, Tensor) else type(targets).__name__
            raise PotentialsError(f"targets: expected a tensor (N, L), got {found}")
        layer = cls(targets.shape[1], edges=Structure.INDEPENDENT, rules=rules, **settings)
        pairs = edges_of_structure(
            _structure(edges),
            _states("targets", targets, targets.shape).cpu(),
            rules=layer.rules,
            per_label=edges_per_label,
            false_share=false_edges,
        )
        return cls(layer.num_labels, edges=pairs, rules=layer.rules, **settings)

    def extra_repr(self) -> str:
        inference = self.inference if isinstance(self.inference, str) else self.inference.name
        rules = f", rules={len(self.rules)}" if len(self.rules) else ""
        return f"{self.num_labels}, edges={len(self.edges)}{rules}, inference={inference!s}"

    @_exactly
    def forward(
        self, logits: Tensor, targets: Tensor, reduction: Reduction | str = Reduction.MEAN
    ) -> Tensor:
        """Return the negative log-probability of the known labels, unknown ones summed out.

        Args:
            logits: log-odds of each label on its own (N, L).
            targets: 1 present, 0 absent, -1 or NaN unknown (N, L).
            reduction: `mean` over images, `sum`, or `none`: one loss for each image (N,).
        """
        reduced = _chosen("reduction", reduction, Reduction)
        losses = -self._log_prob(logits, targets)
        match reduced:
            case Reduction.MEAN:
                return losses.sum() / max(1, len(losses))
            case Reduction.SUM:
                return losses.sum()
            case Reduction.NONE:
                return losses

    @_exactly
    def log_prob(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the log-probability of the known labels, unknown ones summed out (N,)."""
        return self._log_prob(logits, targets)

    @_exactly
    def marginals(self, logits: Tensor, known: Tensor | None = None) -> Tensor:
        """Return P(y_i = 1 given logits and what is known) (N, L).

        Args:
            known: 1, 0, and -1 or NaN for unknown (N, L).

        Raises:
            GradientError: from `backward`, where they carry no gradient: by enumeration above 16
                labels, and by sampling.

        Warns:
            MlcrfWarning: the method did not converge for some images, and what to try.
        """
        potentials, given = self._start(logits, known)
        if logits.is_meta:
            return self._shape(potentials, *logits.shape)
        return self._infer(self._method(potentials), potentials, given).marginals

    @_exactly
    @torch.no_grad()
    def decode(
        self,
        logits: Tensor,
        decision: Decision | str | Decoder = Decision.MAP,
        known: Tensor | None = None,
        *,
        k: int | None = None,
    ) -> Tensor:
        """Return a label set for each image, int64 (N, L).

        Args:
            decision: a rule by name, or a `Decoder` with settings of its own.
            known: 1, 0, and -1 or NaN for unknown (N, L); known labels keep their values.
            k: number of labels, for the rules that choose exactly so many.
        """
        decoder = decision
        if not isinstance(decoder, Decoder):
            decoder = Decoder(_chosen("decision", decoder, Decision), k=k)
        elif k is not None:
            raise SettingsError(f"k: expected in the Decoder that is given, got {k} beside it")
        potentials, given = self._start(logits, known)
        if logits.is_meta:
            return torch.empty_like(logits, dtype=torch.int64)
        method = self._method(potentials)
        posterior = self._infer(method, potentials, given)
        return decoder(posterior, potentials, method, known=given)

    @_exactly
    @torch.no_grad()
    def sample(
        self,
        logits: Tensor,
        n: int = 1,
        *,
        known: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw n label sets for each image, uint8 (n, N, L).

        Args:
            known: 1, 0, and -1 or NaN for unknown (N, L); known labels keep their values.
            generator: on the device of the logits; by default seeded by torch's own.

        Raises:
            SettingsError: n is below 1, or the inference method draws no label sets.
        """
        _count("n", n)
        potentials, given = self._start(logits, known)
        if logits.is_meta:
            return torch.empty(n, *logits.shape, dtype=torch.uint8, device=logits.device)
        if generator is None:
            generator = torch.Generator(device=logits.device).manual_seed(_drawn_seed())
        method = self._method(potentials)
        if isinstance(method, DrawsLabels):
            return method.sample(potentials, n, generator, known=given)
        if not isinstance(method, Independent):
            raise SettingsError(
                f"inference: {method.name} draws no label sets; use exact, junction-tree or auto"
            )
        marginals = method(potentials, known=given).marginals
        return marginals.expand(n, -1, -1).bernoulli(generator=generator).byte()

    @_exactly
    def entropy(self, logits: Tensor, known: Tensor | None = None) -> Tensor:
        """Return the entropy of the label set given logits and what is known, in nats (N,).

            H = log Z - sum_i unary_i P(y_i = 1) - sum_ij pairwise_ij P(y_i = 1, y_j = 1)

        Raises:
            SettingsError: there are soft limits, or the method has no pairwise marginals.
            GradientError: from `backward`, as `marginals`.
        """
        if any(not limit.is_hard for limit in self.rules.limits):
            raise SettingsError("rules: the entropy under soft limits is not available")
        potentials, given = self._start(logits, known)
        if logits.is_meta:
            return self._shape(potentials, len(logits))
        method = self._method(potentials)
        posterior = self._infer(method, potentials, given, pairs=True)
        marginals, pairs = posterior.marginals, posterior.pairwise_marginals
        if pairs is None and not isinstance(method, MeanField | Independent):
            raise SettingsError(
                f"inference: {method.name} has no pairwise marginals, which the "
                "entropy needs; use exact, junction-tree, mean-field or auto"
            )
        if pairs is None:  # beliefs are independent
            return posterior.log_partition - potentials.log_score(marginals)
        score = (potentials.unary * marginals).sum(-1) + (potentials.pairwise * pairs).sum(-1)
        return posterior.log_partition - score

    @_exactly
    def condition(self, logits: Tensor, known: Tensor) -> Potentials:
        """Return the CRFs given known labels, as potentials for `mlcrf.inference`.

        What is coupled to a known label has it added to its unary; known labels have no edges and
        log-odds of plus or minus 100. Edges are those between labels that some image does not
        know, on the meta device all; couplings are (N, E) where images know different labels.
        Differentiable.

        Args:
            known: 1, 0, and -1 or NaN for unknown (N, L).
        """
        potentials, given = self._start(logits, known)
        assert given is not None
        if logits.is_meta:
            couplings = self._shape(potentials, len(logits), len(potentials.edges))
            unary = self._shape(potentials, *logits.shape)
            return Potentials(unary, potentials.edges, couplings, self.rules)
        unary, (first, second) = potentials.unary, potentials.edges.T
        free = given == UNKNOWN
        y = (given == 1).to(unary.dtype)
        shifted = unary.index_add(1, first, y[:, second] * potentials.pairwise)
        shifted = shifted.index_add(1, second, y[:, first] * potentials.pairwise)
        inner = free[:, first] & free[:, second]
        kept = inner.any(0)
        pairwise, inner = potentials.pairwise[kept], inner[:, kept]
        if not bool(inner.all()):
            pairwise = pairwise * inner
        return Potentials(
            torch.where(free, shifted, (2 * y - 1) * IMPOSSIBLE),
            potentials.edges[kept],
            pairwise,
            self.rules,
        )

    @_exactly
    def potentials(self, logits: Tensor) -> Potentials:
        """Return the CRFs of a batch as a value, for the functions of `mlcrf`.

        Raises:
            PotentialsError: logits of another shape, type or device, or not finite.
        """
        return self._potentials(logits)

    def pairwise_matrix(self) -> Tensor:
        """Return the couplings as a symmetric matrix with zero diagonal (L, L)."""
        empty = self.pairwise.detach().float().new_zeros(1, self.num_labels)
        return Potentials(empty, self.edges, self.pairwise.detach().to(empty)).pairwise_matrix()

    def _all(self, name: str) -> Tensor:
        structure = _structure(name)
        if structure in (Structure.TREE, Structure.SPARSE):
            raise SettingsError(
                f"edges: {structure} is chosen from targets; use "
                f'MultiLabelCRF.from_targets(targets, edges="{structure}")'
            )
        nothing = torch.empty(0, self.num_labels, dtype=torch.int8)
        return edges_of_structure(structure, nothing, rules=self.rules)

    def _log_prob(self, logits: Tensor, targets: Tensor) -> Tensor:
        potentials, known = self._start(logits, targets, "targets")
        if logits.is_meta:
            return self._shape(potentials, len(logits))
        assert known is not None
        method = self._method(potentials)
        what = f"log-probabilities by {method.name}"
        log_partition = _differentiable(method(potentials).log_partition, potentials, what)
        return log_mass(method, potentials, known) - log_partition

    def _potentials(self, logits: Tensor) -> Potentials:
        shape = f"(N, {self.num_labels})"
        if not isinstance(logits, Tensor) or not logits.is_floating_point() or logits.ndim != 2:
            found = f"{logits.dtype} {tuple(logits.shape)}" if isinstance(logits, Tensor) else ""
            raise PotentialsError(
                f"logits: expected floating-point numbers {shape}, got {found or type(logits)}"
            )
        if logits.shape[1] != self.num_labels:
            raise PotentialsError(f"logits: expected {shape}, got {tuple(logits.shape)}")
        if logits.device != self.pairwise.device:
            raise PotentialsError(
                f"logits: expected on {self.pairwise.device} as the layer, got {logits.device}; "
                "move the layer by .to(device)"
            )
        dtype = torch.promote_types(logits.dtype, self.pairwise.dtype)
        dtype = torch.promote_types(dtype, torch.float32)
        if not logits.is_meta and not bool(torch.isfinite(logits).all()):
            raise PotentialsError("logits: contains NaN or infinity")
        return Potentials(logits.to(dtype), self.edges, self.pairwise.to(dtype), self.rules)

    def _start(
        self, logits: Tensor, given: Tensor | None, name: str = "known"
    ) -> tuple[Potentials, Tensor | None]:
        """Return the CRFs, and what is known, closed under the rules, int64 (N, L)."""
        potentials = self._potentials(logits)
        if given is None:
            return potentials, None
        states = _states(name, given, logits.shape)
        if logits.is_meta:
            return potentials, states
        return potentials, check_known(potentials, states, name=name)

    def _method(self, potentials: Potentials) -> InferenceMethod:
        if not isinstance(self.inference, InferenceName):
            return self.inference
        method = make_inference(
            self.inference,
            num_labels=self.num_labels,
            edges=potentials.edges,
            rules=self.rules,
            max_exact_labels=self.max_exact_labels,
        )
        match method:  # chains of every call are their own
            case Gibbs() | AnnealedImportanceSampling():
                return replace(method, seed=_drawn_seed())
            case ExactOrGibbs():
                return replace(method, gibbs=replace(method.gibbs, seed=_drawn_seed()))
            case _:
                return method

    def _infer(
        self,
        method: InferenceMethod,
        potentials: Potentials,
        known: Tensor | None,
        *,
        pairs: bool = False,
    ) -> Posterior:
        if pairs and hasattr(method, "pairwise_marginals"):
            method = replace(method, pairwise_marginals=True)  # type: ignore[type-var]
        posterior = method(potentials, known=known)
        if posterior.advice:
            warnings.warn(posterior.advice, MlcrfWarning, stacklevel=5)
        what = f"marginals by {method.name} over {self.num_labels} labels"
        found = posterior.pairwise_marginals
        return replace(
            posterior,
            marginals=_differentiable(posterior.marginals, potentials, what),
            pairwise_marginals=None if found is None else _differentiable(found, potentials, what),
        )

    def _shape(self, potentials: Potentials, *shape: int) -> Tensor:
        """Return a result without values, on torch's meta device, that depends on all inputs."""
        return (potentials.unary.sum() + potentials.pairwise.sum()).expand(shape)


def _differentiable(values: Tensor, potentials: Potentials, what: str) -> Tensor:
    """Return values that refuse a gradient if they should carry one and do not."""
    inputs = potentials.unary, potentials.pairwise
    wanted = torch.is_grad_enabled() and any(one.requires_grad for one in inputs)
    if values.requires_grad or not wanted:
        return values
    message = f"{what} carry no gradient; they do by mean-field, junction-tree, or exact up to 16"
    refused: Tensor = Refused.apply(message, values, *inputs)
    return refused


def _states(name: str, given: Tensor, shape: Sequence[int]) -> Tensor:
    """Return labels (N, L) as int64, NaN as unknown."""
    if not isinstance(given, Tensor) or given.is_complex():
        raise PotentialsError(f"{name}: expected a tensor of numbers, got {type(given).__name__}")
    if given.shape != torch.Size(shape):
        raise PotentialsError(
            f"{name}: expected {tuple(shape)} as logits, got {tuple(given.shape)}"
        )
    if given.is_meta or not given.is_floating_point():
        return given.long()
    unknown = given.isnan() | (given == UNKNOWN)
    if not bool((unknown | (given == 0) | (given == 1)).all()):
        raise PotentialsError(f"{name}: expected 1 (present), 0 (absent), -1 or NaN (unknown)")
    return given.masked_fill(unknown, UNKNOWN).long()


def _chosen(name: str, word: object, kind: type[Choice]) -> Choice:
    try:
        return kind(str(word))
    except ValueError:
        raise SettingsError(f"{name}: {choose(word, kind)}") from None


def _structure(word: str) -> Structure:
    names = [one.value for one in _EDGES]
    if word not in names:
        raise SettingsError(
            f"edges: expected {', '.join(names)}, or pairs (E, 2), got {word!r}"
            f"{did_you_mean(word, names)}"
        )
    return Structure(word)


def _given(edges: Tensor | Sequence[Pair], num_labels: int) -> Tensor:
    """Return label pairs with i < j, int64 (E, 2), in the given order."""
    try:
        pairs = torch.as_tensor(edges).detach().cpu()
    except (RuntimeError, TypeError, ValueError):
        raise PotentialsError(f"edges: expected a name, or pairs (E, 2), got {edges!r}") from None
    if not pairs.numel():
        return torch.empty(0, 2, dtype=torch.int64)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype not in (torch.int32, torch.int64):
        raise PotentialsError(
            f"edges: expected whole numbers (E, 2), got {pairs.dtype} {tuple(pairs.shape)}"
        )
    pairs = pairs.long().sort(1).values
    wrong = (pairs[:, 0] < 0) | (pairs[:, 1] >= num_labels) | (pairs[:, 0] == pairs[:, 1])
    if bool(wrong.any()):
        raise PotentialsError(
            f"edges: expected pairs of two labels from 0 to {num_labels - 1}, "
            f"got {tuple(pairs[wrong][0].tolist())}"
        )
    found, count = torch.unique(pairs, dim=0, return_counts=True)
    if len(found) < len(pairs):
        raise PotentialsError(f"edges: {tuple(found[count > 1][0].tolist())} occurs twice")
    return pairs


def _implications(pairs: Sequence[Pair]) -> Rules:
    if not isinstance(pairs, Sequence):
        raise LabelsError(f"rules: expected Rules, or pairs of label numbers, got {pairs!r}")
    for pair in pairs:
        if not isinstance(pair, Sequence) or [type(label) for label in pair] != [int, int]:
            raise LabelsError(f"rules: expected pairs (label, label that it implies), got {pair!r}")
    return Rules(tuple((child, parent) for child, parent in pairs))


def _count(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SettingsError(f"{name}: expected a whole number from 1, got {value!r}")
    return value


def _drawn_seed() -> int:
    """Return a seed that follows from torch's own."""
    return int(torch.randint(2**31, (), device="cpu"))
