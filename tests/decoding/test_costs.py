"""Decisions of least expected cost against plain enumeration of all that may be decided."""

import itertools
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from mlcrf.choices import Decision
from mlcrf.crf import UNKNOWN, check_known
from mlcrf.decoding import Admissible, Costs, Decoder, Guarantee, load_costs
from mlcrf.decoding import minimise_expected_cost as minimise
from mlcrf.decoding.sized_sets import sized_sets
from mlcrf.errors import DataError, LabelsError, SettingsError
from mlcrf.inference import Exact
from mlcrf.labels import LabelSpace
from mlcrf.rules import Rules
from mlcrf.rules.states import list_partial_states, list_states
from tests.drawn_rules import make

NAMES = tuple("abcdefgh")


def drawn_costs(rng: np.random.Generator, labels: int, *, abstains: bool) -> Costs:
    """Costs over two orders of magnitude; a third of the labels are never left open."""
    false, missed, abstain = np.exp(rng.normal(0, 1.5, (3, labels)))
    free = [None if rng.random() < 1 / 3 else float(cost) / 4 for cost in abstain]
    nothing = (None,) * labels
    return Costs(
        NAMES[:labels],
        tuple(false.tolist()),
        tuple(missed.tolist()),
        tuple(free) if abstains else nothing,
    )


def price(decision: Sequence[int], p: Sequence[float], known: Sequence[int], costs: Costs) -> float:
    """The expected cost of a decision, label by label in plain sums."""
    terms = []
    for label, said in enumerate(decision):
        chance = p[label] if known[label] < 0 else float(known[label])
        open_cost = costs.abstain[label]
        if said == 1:
            terms.append((1 - chance) * costs.false[label])
        elif said == 0:
            terms.append(chance * costs.missed[label])
        else:
            terms.append(math.inf if open_cost is None or known[label] >= 0 else open_cost)
    return math.fsum(terms)


def decisions(rules: Rules, known: Sequence[int], *, abstains: bool) -> Iterator[tuple[int, ...]]:
    """All that may be decided: some label set agrees, and nothing that follows is open."""
    sets = [
        y
        for y in itertools.product((0, 1), repeat=len(known))
        if rules.obeyed_by(np.array(y))
        and all(told in (UNKNOWN, value) for told, value in zip(known, y, strict=True))
    ]
    found = set()
    for values in itertools.product((0, 1, UNKNOWN) if abstains else (0, 1), repeat=len(known)):
        agree = [
            y
            for y in sets
            if all(said in (UNKNOWN, bit) for said, bit in zip(values, y, strict=True))
        ]
        if agree and all(
            said != UNKNOWN or {y[label] for y in agree} == {0, 1}
            for label, said in enumerate(values)
        ):
            found.add(values)
    yield from found


@pytest.mark.parametrize("limits", [(0, None), (2, 3)])
@pytest.mark.parametrize("abstains", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_least_of_all_that_may_be_decided(
    seed: int, abstains: bool, limits: tuple[int, int | None]
) -> None:
    """Under drawn rules, known labels and limits; the cost is that of what is decided."""
    labels = 4 + seed % (3 if abstains else 5)
    potentials, known = make(seed, labels)
    known = check_known(potentials, known)
    rng = np.random.default_rng(seed)
    costs = drawn_costs(rng, labels, abstains=abstains)
    p = Exact()(potentials, known=known).marginals
    admissible = Admissible(known, potentials.rules, *limits)
    assert not abstains or sized_sets(potentials.rules, labels).open_groups is not None
    states, value = minimise(p, costs, admissible)
    for image in range(3):
        told, chances = known[image].tolist(), p[image].tolist()
        possible = list(decisions(potentials.rules, told, abstains=abstains))
        few, most = int(admissible.fewest[image]), int(admissible.most[image])
        sizes = {decision: sum(one == 1 for one in decision) for decision in possible}
        outside = {one: max(few - n, n - most, 0) for one, n in sizes.items()}
        nearest = min(outside.values())
        best = min(price(one, chances, told, costs) for one in possible if outside[one] == nearest)
        found = tuple(states[image].tolist())
        assert found in possible and outside[found] == nearest
        assert price(found, chances, told, costs) == pytest.approx(best)
        assert float(value[image]) == pytest.approx(best)


def test_without_rules_each_label_has_the_least_of_its_costs() -> None:
    """Equal costs are a threshold of 0.5, others one of false / (false + missed)."""
    rng = np.random.default_rng(0)
    p = torch.from_numpy(rng.random((200, 8)))
    unknown = Admissible(torch.full((200, 8), UNKNOWN))
    equal = Costs(NAMES, (2.0,) * 8, (2.0,) * 8, (None,) * 8)
    assert torch.equal(minimise(p, equal, unknown)[0], (p > 0.5).long())
    costs = drawn_costs(rng, 8, abstains=True)
    false, missed, abstain = p.new_tensor(costs.rows())
    each = torch.stack([p * missed, (1 - p) * false, abstain.expand_as(p)])
    states, value = minimise(p, costs, unknown)
    assert torch.equal(states, torch.tensor([0, 1, UNKNOWN])[each.argmin(0)])
    assert (states == UNKNOWN).any() and (states == 1).any()
    torch.testing.assert_close(value, each.amin(0).sum(1))


@pytest.mark.parametrize("limits", [(0, None), (3, 5)])
def test_more_states_than_are_listed(limits: tuple[int, int | None]) -> None:
    """Sets stay within rules and limits; what follows is not open; costs are near the best."""
    labels = 24
    rules = Rules(tuple((child, 0) for child in range(1, labels)))
    rng = np.random.default_rng(1)
    p = torch.from_numpy(rng.random((40, labels)))
    known = torch.full(p.shape, UNKNOWN)
    known[:5, 3] = 1
    known = torch.from_numpy(rules.close(known.numpy()))
    false, missed, abstain = np.exp(rng.normal(0, 1, (3, labels))).tolist()
    abstain[0] = 0.0  # and yet the parent of what is written is not open
    names = tuple(map(str, range(labels)))
    admissible = Admissible(known, rules, *limits)
    values = []
    for still_open in ((None,) * labels, tuple(abstain)):
        costs = Costs(names, tuple(false), tuple(missed), still_open)
        states, value = minimise(p, costs, admissible)
        assert torch.equal(torch.from_numpy(rules.close(states.numpy())), states)
        assert ((known < 0) | (states == known)).all()
        written = (states == 1).sum(1)
        assert (written >= limits[0]).all() and (written <= (limits[1] or labels)).all()
        told = zip(states.tolist(), p.tolist(), known.tolist(), strict=True)
        assert value.tolist() == pytest.approx([price(*one, costs) for one in told])
        values.append(value)
    assert (states == UNKNOWN).any() and (values[1] <= values[0]).all()
    if limits == (0, None):  # all absent, or the parent present and each other label for itself
        written_cost, absent_cost = (1 - p) * p.new_tensor(false), p * p.new_tensor(missed)
        with_parent = torch.minimum(written_cost, absent_cost)[:, 1:].sum(1) + written_cost[:, 0]
        best = torch.minimum(with_parent, absent_cost.sum(1))
        assert float((values[0] - best)[5:].mean()) < 0.01 * float(best.mean())


def test_partial_states() -> None:
    """The listed ones are those of plain enumeration; None where they are too many."""
    rng = np.random.default_rng(0)
    for seed in range(6):
        potentials, _ = make(seed, 5)
        for labels in potentials.rules.linked(5):
            states = list_states(labels, potentials.rules)
            assert states is not None
            found = list_partial_states(states)
            assert found is not None
            own = potentials.rules.among(labels)
            wanted = set(decisions(own, (UNKNOWN,) * len(labels), abstains=True))
            assert {tuple(one) for one in found.tolist()} == wanted and len(found) == len(wanted)
    every = list_states(list(range(6)), Rules())
    assert every is not None
    assert list_partial_states(every, most=3**6 - 1) is None
    assert list_partial_states(rng.permutation(every), most=3**6) is not None


def test_a_decoder_with_costs() -> None:
    """It decides as the search does, keeps known labels, records and names its costs."""
    potentials, known = make(3, 6)
    costs = drawn_costs(np.random.default_rng(3), 6, abstains=True)
    decoder = Decoder(costs=costs, at_most=4)
    known = check_known(potentials, known)
    posterior = Exact()(potentials, known=known)
    chosen = decoder(posterior, potentials, Exact(), known=known)
    admissible = Admissible(known, potentials.rules, at_most=4)
    assert torch.equal(chosen, minimise(posterior.marginals, costs, admissible)[0])
    assert (chosen == UNKNOWN).any() and decoder.abstains and not Decoder().abstains
    assert TypeAdapter(Decoder).validate_json(json.dumps(decoder.record())) == decoder
    assert re.fullmatch(r"least-cost,costs:costs@[0-9a-f]{8},at-most:4", decoder.signature)
    other = replace(costs, abstain=(None,) * 6)
    assert Decoder(costs=other).signature != Decoder(costs=costs).signature
    with pytest.raises(SettingsError, match="expected 6 costs, got 5"):
        five = drawn_costs(np.random.default_rng(3), 5, abstains=True)
        Decoder(costs=five)(posterior, potentials, Exact())
    for settings in (
        {"rule": Decision.MAP},
        {"threshold": 0.4},
        {"rule": Decision.LABEL_THRESHOLDS, "guarantee": Guarantee(precision=0.9)},
    ):
        with pytest.raises(SettingsError, match="costs have a rule of their own"):
            Decoder(costs=costs, **settings)


def test_costs_by_name() -> None:
    """`*` stands for labels that are not named; costs follow labels into another order."""
    labels = LabelSpace(("sea", "sky", "dog"))
    costs = Costs.of({"sky": (1, 5, 2), "*": (1, 1)}, labels, abstain=0.25)
    assert costs == Costs(labels.names, (1, 1, 1), (1, 5, 1), (0.25, 2, 0.25))
    turned = costs.ordered(LabelSpace(("dog", "sky", "sea")))
    assert (turned.missed, turned.abstain) == ((1, 5, 1), (0.25, 2, 0.25))
    assert turned.labels == ("dog", "sky", "sea")
    with pytest.raises(LabelsError, match=r"costs of other labels: .*not expected 'dog'"):
        costs.ordered(LabelSpace(("sea", "sky")))
    for given, error, text in (
        ({"sae": (1, 1), "*": (1, 1)}, LabelsError, "unknown label 'sae'; did you mean 'sea'"),
        ({"sea": (1, 1)}, LabelsError, "no costs of 'sky' and 1 more labels; add them, or a row"),
        ({"*": (1,)}, SettingsError, "expected \\(false, missed\\)"),
        ({"*": (1, None)}, SettingsError, "expected \\(false, missed\\)"),
        ({"*": (1, -1)}, SettingsError, "missed of 'sea': expected a number from 0 .* got -1"),
        ({"*": (math.nan, 1)}, SettingsError, "false of 'sea': .* got nan"),
        ({"*": (1, 1, math.inf)}, SettingsError, "abstain of 'sea': .* got inf"),
    ):
        with pytest.raises(error, match=text):
            Costs.of(given, labels)


@pytest.mark.parametrize(
    "text",
    [
        "label,false,missed,abstain\nsea,1,5,\n*,2,0.5,0.1\n",
        "\ufefflabel;false;missed;abstain\r\nsea;1;5;\r\n*;2;0,5;0,1\r\n",
        "missed\tabstain\tLabel\tfalse\n\n5\t\tsea\t1\n0.5\t.1\t*\t2\n",
        "sep=;\nlabel;false;missed;abstain\n*;2;0.5;0.1\nsea;1;5;\n\n",
    ],
)
def test_a_file_of_costs(text: str, tmp_path: Path) -> None:
    """In the spellings of CSV that spreadsheets have; --abstain fills empty cells."""
    path = tmp_path / "costs.csv"
    path.write_bytes(text.encode())
    labels = LabelSpace(("sea", "sky"))
    found = load_costs(path, labels)
    assert found == Costs(labels.names, (1, 2), (5, 0.5), (None, 0.1), "costs.csv")
    assert load_costs(path, labels, abstain=3).abstain == (3, 0.1)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "costs.csv: is empty; expected a header `label,false,missed`"),
        ("\n\n", "costs.csv: is empty"),
        ("sea,1,5\n", "costs.csv:1: column 'sea' is unknown; expected a header"),
        ("label,false\n", "costs.csv:1: has no column 'missed'; expected a header"),
        ("label,false,mised\n", "costs.csv:1: column 'mised' is unknown; did you mean 'missed'"),
        ("label,false,false,missed\n", "costs.csv:1: column 'false' occurs twice"),
        ("label,false,missed\nsae,1,1\n*,1,1\n", ":2: unknown label 'sae'; did you mean 'sea'"),
        ("label,false,missed\n*,1,1\nsea,-1,1\n", ":3: column 'false' is '-1'; expected a number"),
        ("label,false,missed\n*,1,nan\n", ":2: column 'missed' is 'nan'; expected a number from 0"),
        ("label,false,missed\n*,inf,1\n", ":2: column 'false' is 'inf'"),
        ("label,false,missed\n*,much,1\n", ":2: column 'false' is 'much'"),
        ("label,false,missed\n*,,1\n", ":2: column 'false' is ''"),
        ("label,false,missed,abstain\n*,1,1,-2\n", ":2: column 'abstain' is '-2'"),
        ("label,false,missed\n*,1,1\nsea,1,1\nsea,2,2\n", ":4: 'sea' is on line 3 already"),
        ("label,false,missed\n*,1,1\nsea,0,0\n", ":3: both costs are 0, which decides nothing"),
        ("label,false,missed\n*,1_0,1\n", ":2: column 'false' is '1_0'; expected a number"),
        ("label,false,missed\n*,1\n", ":2: 2 cells, but the header has 3"),
        ("label,false,missed\nsea,1,1\n", "costs.csv: has no costs of 'sky'; add them, or a row"),
        ("label,false,missed\n", "costs.csv: has no costs of 'sea' and 1 more labels"),
        ('label,false,missed\n"sea,1,1\n', "cannot be read as CSV"),
    ],
)
def test_a_file_that_is_none(text: str, reason: str, tmp_path: Path) -> None:
    """One line names file and line, cause and remedy."""
    path = tmp_path / "costs.csv"
    path.write_text(text)
    with pytest.raises((DataError, LabelsError)) as told:
        load_costs(path, LabelSpace(("sea", "sky")))
    assert reason in str(told.value) and "\n" not in str(told.value)


def test_all_errors_of_a_file_are_told(tmp_path: Path) -> None:
    """Each on a line; no file, and bytes that are not text, on one."""
    path = tmp_path / "costs.csv"
    path.write_text("label,false,missed\nsae,1,1\nsea,-1,x\n*,1,1\n")
    with pytest.raises(DataError) as told:
        load_costs(path, LabelSpace(("sea", "sky")))
    assert [line.split(": ")[0][-2:] for line in str(told.value).splitlines()] == [":2", ":3", ":3"]
    with pytest.raises(DataError, match=r"none\.csv: cannot be read: No such file"):
        load_costs(tmp_path / "none.csv", LabelSpace(("sea",)))
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="is not UTF-8 text but UTF-16"):
        load_costs(path, LabelSpace(("sea",)))
