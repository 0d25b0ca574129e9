"""The models of the study: fitted, chosen on photos held out, and asked about test photos."""

from collections.abc import Callable

import torch

from experiments import frame
from experiments.beyond_pairwise import autoregressive
from experiments.beyond_pairwise.conditional import Conditional, fit_conditional
from experiments.beyond_pairwise.fits import (
    Fit,
    Terms,
    f1_loss,
    fit_terms,
    label_loss,
    strongest_triples,
)
from experiments.beyond_pairwise.label_sets import HalfStates, HigherOrderCrf, all_triples
from experiments.beyond_pairwise.study import FIT_LOST, TYPICAL, Answer, Study, answer_exactly
from mlcrf.decoding import (
    count_marginals_from_samples,
    empty_probability,
    maximise_expected_f1,
)
from mlcrf.inference import Exact

CONDITIONAL_LABELS = 14  # as many as sums image by image reach
PENALTIES = (
    (1e-3, 1e-4),
    (1e-3, 1e-5),
    (3e-4, 1e-5),
    (3e-4, 1e-6),
)  # of the map of log-odds, of couplings
COUNT_PENALTIES = (1e-3,)
TRIPLES = ((16, 1e-3), (16, 1e-4), (64, 1e-3))
GATES = ((4, 0.1), (16, 1.0))  # rank, decay
DECAYS = (0.3,)  # of autoregressive networks


def fit_models(
    study: Study, choices: frame.Rows, say: Callable[[str], None]
) -> dict[str, HigherOrderCrf]:
    """Fit all CRFs by name; note what was chosen, and say what is done."""
    independent, pairwise, penalties, states = fit_pairs(study, choices)
    models: dict[str, HigherOrderCrf] = {"independent": independent, "pairwise": pairwise}

    def best_of(system: str, tried: list[tuple[str, Fit]]) -> HigherOrderCrf:
        for settings, fit in tried:
            choices.append(
                {
                    "system": system,
                    "settings": settings,
                    "held_out": fit.held_out[-1],
                    "gradients": fit.gradients,
                }
            )
        return min(tried, key=lambda one: one[1].held_out[-1])[1].crf

    def counted(start: HigherOrderCrf, more: dict[str, float]) -> list[tuple[str, Fit]]:
        return [
            (f"counts {one:g}", study.fitted(start, states, Terms(more | {"counts": one})))
            for one in COUNT_PENALTIES
        ]

    say("pairs")
    models["+ counts"] = best_of("+ counts", counted(pairwise, penalties))
    every, tried = all_triples(study.num_labels), []
    for number, penalty in TRIPLES:
        terms = strongest_triples(pairwise, every, study.fit, states, number)
        more = penalties | {"triples": penalty}
        fit = study.fitted(pairwise.with_terms(terms), states, Terms(more))
        tried.append((f"{number} triples, {penalty:g}", fit))
    models["+ triples"] = best_of("+ triples", tried)
    chosen = min(range(len(tried)), key=lambda at: tried[at][1].held_out[-1])
    more = penalties | {"triples": TRIPLES[chosen][1]}
    both = counted(models["+ triples"], more)
    models["+ counts and triples"] = best_of("+ counts and triples", both)
    say("triples")
    for title, loss, steps in (
        ("fitted for single labels", label_loss, 15),
        ("fitted for expected F1", f1_loss, 8),
    ):
        models[title] = early(study, pairwise, states, Terms(penalties, loss, steps), choices)
    say("measures")
    return models


def fit_pairs(
    study: Study, choices: frame.Rows
) -> tuple[HigherOrderCrf, HigherOrderCrf, dict[str, float], HalfStates]:
    """Fit independent labels and the pairwise CRF; return the latter's penalties and states too."""
    plain = HigherOrderCrf(study.fit.odds)
    free = {"weight": PENALTIES[0][0], "bias": 0.0}
    few = study.likely(plain, FIT_LOST)
    first = fit_terms(
        plain,
        study.fit.rows(torch.arange(len(study.fit)) < TYPICAL),
        few,
        Terms({"weight": 1e-2, "bias": 0.0, "pairwise": 1e-3}, most_steps=study.most_steps),
    ).crf
    states = study.likely(first, FIT_LOST)
    independent = study.fitted(plain, few, Terms(free))
    best: tuple[Fit, dict[str, float]] | None = None
    start = first
    for weight, pairwise in PENALTIES:
        penalties = {"weight": weight, "bias": 0.0, "pairwise": pairwise}
        fit = study.fitted(start, states, Terms(penalties))
        start = fit.crf
        choices.append(
            {
                "system": "pairwise",
                "settings": f"map {weight:g}, couplings {pairwise:g}",
                "held_out": fit.held_out[-1],
                "gradients": fit.gradients,
            }
        )
        if best is None or fit.held_out[-1] < best[0].held_out[-1]:
            best = fit, penalties
    assert best is not None
    return independent.crf, best[0].crf, best[1], states


def early(
    study: Study, start: HigherOrderCrf, states: HalfStates, terms: Terms, choices: frame.Rows
) -> HigherOrderCrf:
    """Fit as many steps as photos held out like best."""
    steps = min(terms.most_steps, study.most_steps)
    whole = study.fitted(start, states, terms)
    taken = whole.best_step
    choices.append(
        {
            "system": terms.loss.__name__,
            "settings": f"{taken} of {steps} steps at most",
            "held_out": whole.held_out[taken],
            "start": whole.held_out[0],
            "gradients": whole.gradients,
        }
    )
    return whole.best


def answer_conditional(study: Study, base: HigherOrderCrf, choices: frame.Rows) -> Answer:
    """Choose rank and decay, and answer with couplings that vary by photo."""
    best: Conditional | None = None
    epochs = min(4, study.epochs)
    for rank, decay in GATES[: 1 if study.epochs == 1 else None]:
        fit = fit_conditional(
            base, study.fit, study.held_out, rank=rank, decay=decay, epochs=epochs
        )
        choices.append(
            {
                "system": "couplings by photo",
                "settings": f"rank {rank}, decay {decay:g}",
                "held_out": min(fit.held_out),
                "start": fit.held_out[0],
            }
        )
        if best is None or min(fit.held_out) < min(best.held_out):
            best = fit
    assert best is not None
    batches = ((best.potentials(part), part.targets) for part in study.test.batches())
    return answer_exactly(Exact(), batches)


def answer_networks(study: Study, choices: frame.Rows) -> Answer:
    """Answer by autoregressive networks, whose terms have no limit; from drawn sets."""
    orders, count = (1, 4) if study.epochs == 1 else (4, 12)
    best: tuple[float, list[autoregressive.AutoregressiveNetwork]] | None = None
    for decay in DECAYS[: 1 if study.epochs == 1 else None]:
        networks = [
            autoregressive.fit_order(
                study.fit, study.held_out, seed=seed, decay=decay, epochs=study.epochs
            )
            for seed in range(orders)
        ]
        held_out = study.held_out
        each = autoregressive.mixture_log_prob(networks, held_out.odds, held_out.targets)
        lost = -float(each.mean())
        settings = f"{orders} orders, decay {decay:g}"
        choices.append(
            {"system": "autoregressive networks", "settings": settings, "held_out": lost}
        )
        if best is None or lost < best[0]:
            best = lost, networks
    assert best is not None
    networks, parts = best[1], []
    generator = torch.Generator().manual_seed(0)
    for part in study.test.batches():
        odds = part.odds
        pairs = [autoregressive.draw(one, odds, count, generator) for one in networks]
        drawn, probabilities = (torch.cat(one) for one in zip(*pairs, strict=True))
        marginals = probabilities.double().mean(0)
        many = drawn.flatten(0, 1)
        log_p = autoregressive.mixture_log_prob(networks, odds.repeat(len(drawn), 1), many)
        where = log_p.view(len(drawn), -1).argmax(0)
        top = drawn[where, torch.arange(len(odds))].long()
        counts = count_marginals_from_samples(drawn.long())
        sets, _ = maximise_expected_f1(counts, empty_probability(counts))
        nll = -autoregressive.mixture_log_prob(networks, odds, part.targets)
        parts.append((marginals, top, nll, sets))
    return Answer.joined(parts)
