"""The settings of a decoder: tuned, recorded, refused where they do not belong together."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from mlcrf.choices import Decision
from mlcrf.crf import Potentials
from mlcrf.decoding import Decoder
from mlcrf.errors import PotentialsError, SettingsError
from mlcrf.inference import Independent
from tests.decoding.methods import ORACLE, READY, decided
from tests.making import make_potentials

RECORDS = TypeAdapter(Decoder)  # as a run's config.json is read


def test_tune() -> None:
    """Thresholds are tuned where the rule has some; until then the rule says so when it is used."""
    marginals = torch.tensor([[0.1, 0.3], [0.2, 0.4], [0.3, 0.1]], dtype=torch.float64)
    targets = torch.tensor([[0, 1], [1, 1], [1, -1]])
    potentials = Potentials(
        marginals.logit(), torch.empty((0, 2), dtype=torch.int64), marginals.new_empty(0)
    )
    one, each = Decoder(Decision.TUNED_THRESHOLD), Decoder(Decision.LABEL_THRESHOLDS, at_most=1)
    assert not one.is_ready
    with pytest.raises(SettingsError, match="tuned-threshold: not tuned yet; tune it on"):
        decided(one, potentials, Independent())
    tuned = one.tune(marginals, targets)
    assert tuned.threshold == pytest.approx(0.15)
    assert tuned.is_ready
    assert decided(tuned, potentials, Independent()).tolist() == [[0, 1], [1, 1], [1, 0]]
    tuned = each.tune(marginals, targets)
    assert tuned.threshold == pytest.approx((0.15, 0.15))
    assert decided(tuned, potentials, Independent()).tolist() == [[0, 1], [0, 1], [1, 0]]
    plain = Decoder(Decision.MAP)
    assert plain.tune(marginals, targets) is plain


@pytest.mark.parametrize("decoder", READY.values(), ids=[str(rule) for rule in READY])
def test_a_record_gives_the_decoder_back(decoder: Decoder) -> None:
    """All settings survive JSON."""
    assert RECORDS.validate_json(json.dumps(decoder.record())) == decoder
    limited = replace(decoder, seed=3) if decoder.k else replace(decoder, at_least=1, at_most=4)
    if decoder.rule is Decision.TOP_K:
        limited = replace(decoder, rarity=None, frequencies=(0.1, 0.2))
    assert RECORDS.validate_json(json.dumps(limited.record())) == limited


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"rule": "guess"}, "rule\n +Input should be 'threshold'"),
        ({"rule": "map", "at_moost": 3}, "at_moost\n +Unexpected keyword argument"),
        ({"rule": "map", "at_most": "few"}, "at_most\n +Input should be a valid integer"),
        ({"rule": "top-k"}, "top-k: expected a number k, got None"),
        ({"threshold": 1.5}, "threshold: expected one threshold from 0 to 1, got 1.5"),
    ],
)
def test_records_that_are_none(record: dict[str, Any], message: str) -> None:
    """An unknown key, a wrong type and a value out of range are named."""
    with pytest.raises(ValidationError, match=message):
        RECORDS.validate_python(record)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": Decision.MAP, "threshold": 0.5}, "map: expected no threshold, got 0.5"),
        ({"threshold": (0.5,)}, "threshold: expected one threshold from 0 to 1, got \\(0.5,\\)"),
        ({"threshold": float("nan")}, "expected one threshold from 0 to 1, got nan"),
        (
            {"rule": Decision.LABEL_THRESHOLDS, "threshold": 0.5},
            "label-thresholds: expected one threshold per label from 0 to 1, got 0.5",
        ),
        ({"rule": Decision.TOP_K}, "top-k: expected a number k, got None"),
        ({"rule": Decision.MAP, "k": 2}, "map: takes no k; that is for top-k, got 2"),
        ({"rule": Decision.TOP_K, "k": 2, "at_most": 3}, "top-k: takes no limits"),
        ({"rule": Decision.MAP, "rarity": 0.5}, "map: takes no rarity; that is for top-k"),
        ({"rule": Decision.TOP_K, "k": 2, "rarity": -1.0}, "a rarity from 0 to 10, got -1"),
        (
            {"rule": Decision.TOP_K, "k": 2, "rarity": float("nan")},
            "a rarity from 0 to 10, got nan",
        ),
        ({"rule": Decision.TOP_K, "k": 2, "frequencies": (0.5, 0.0)}, "frequencies above 0"),
        ({"rule": Decision.TOP_K, "k": -1}, "k >= 0, got at least 0, at most None, k -1"),
        ({"at_least": 3, "at_most": 2}, "0 <= at least <= at most .* at least 3, at most 2"),
        ({"at_least": -1}, "got at least -1"),
        ({"num_samples": 0}, "num_samples: expected 1 or more, got 0"),
    ],
)
def test_settings_that_do_not_belong_together(settings: dict[str, Any], message: str) -> None:
    """What is out of range or belongs to another rule is refused at once."""
    with pytest.raises(SettingsError, match=message):
        Decoder(**settings)


def test_settings_that_do_not_fit_the_labels() -> None:
    """Another number of thresholds, or more labels than there are, is refused when called."""
    potentials = make_potentials(2, 5)
    with pytest.raises(SettingsError, match="expected 5 thresholds, got 6"):
        decided(READY[Decision.LABEL_THRESHOLDS], potentials)
    with pytest.raises(SettingsError, match="6 labels asked for, expected at most 5"):
        decided(Decoder(Decision.TOP_K, k=6), potentials)
    rare = Decoder(Decision.TOP_K, k=2, rarity=0.8)
    with pytest.raises(SettingsError, match="rarity needs frequencies; give them, or rarity 0"):
        decided(rare, potentials)
    with pytest.raises(SettingsError, match="expected 5 frequencies, got 2"):
        decided(replace(rare, frequencies=(0.5, 0.1)), potentials)
    with pytest.raises(SettingsError, match="top-k: not tuned yet"):
        decided(replace(rare, rarity=None, frequencies=(0.1,) * 5), potentials)
    with pytest.raises(SettingsError, match="7 labels asked for, expected at most 5"):
        decided(Decoder(at_least=7), potentials)
    with pytest.raises(PotentialsError, match="known: expected 1"):
        Decoder()(ORACLE(potentials), potentials, ORACLE, known=torch.full((2, 5), 2))


def test_signature() -> None:
    """One word for a line of figures: the rule and what is not as usual."""
    assert [decoder.signature for decoder in READY.values()] == [
        "threshold",
        "tuned-threshold,threshold:0.3",
        "label-thresholds",
        "map",
        "expected-f1",
        "expected-jaccard,num-samples:50",
        "top-k,k:3",
        "f1-of-means,k:3",
    ]
    rare = Decoder(Decision.TOP_K, k=5, rarity=0.8, frequencies=(0.1, 0.2))
    assert rare.signature == "top-k,k:5,rarity:0.8"
    assert replace(rare, rarity=None).signature == "top-k,k:5,rarity:auto"
    assert Decoder(Decision.MAP, at_least=1, at_most=4).signature == "map,at-least:1,at-most:4"
