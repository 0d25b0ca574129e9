"""What is alike: by the cosine of standardised features."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it

from mlcrf.review.finding import Filter, Likeness, Order, Part, Search, State, TagColumn
from mlcrf.review.typical import typical_photos


def test_likeness_is_the_cosine_of_standardised_features() -> None:
    """To one photo and to the mean direction of several; a constant feature tells nothing."""
    features = torch.randn(7, 4, generator=torch.Generator().manual_seed(0)) * 3 + 50
    features[:, 3] = 2.5
    scaled = (features - features.mean(0)) / features.std(0, correction=0)
    directions = F.normalize(scaled[:, :3])
    likeness = Likeness(features)
    assert torch.allclose(likeness.to(torch.tensor([2])), directions @ directions[2], atol=1e-4)
    mean = F.normalize(directions[[1, 4]].mean(0), dim=0)
    assert torch.allclose(likeness.to(torch.tensor([1, 4])), directions @ mean, atol=1e-4)
    assert likeness.to(torch.tensor([], dtype=torch.int64)).tolist() == [0.0] * 7
    assert Likeness(features[:1]).to(torch.tensor([0])).tolist() == [0.0]


def test_orders_where_some_photos_have_no_probability() -> None:
    """They follow all that have one, and those with an answer come last."""
    p = torch.tensor([torch.nan, 0.1, torch.nan, 0.9, 0.5])
    answered = torch.tensor([False, False, False, True, False])
    column = TagColumn(p, torch.full((5,), -1), answered)
    likeness = torch.tensor([0.2, 0.1, 0.8, -1.0, -0.5])

    def order(by: Order) -> list[int]:
        return column.score(by, likeness).argsort(descending=True, stable=True).tolist()

    assert order(Order.LIKELY) == [4, 1, 0, 2, 3]
    assert order(Order.UNCERTAIN) == [4, 1, 2, 0, 3]
    assert order(Order.LIKE) == [2, 0, 1, 4, 3]


@pytest.mark.parametrize("said", [-1, 0, 1])
def test_a_new_tag_begins_with_typical_photos_until_one_has_it(said: int) -> None:
    """Before any answer and after a no; after a yes the least certain photo comes first."""
    features = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    typical = typical_photos(features, 30).tolist()
    known = torch.full((30,), -1)
    known[typical[0]] = said
    p = torch.full((30,), torch.nan if said < 0 else 0.1)
    p[typical[-1]] = 0.5
    column = TagColumn(p, known, known >= 0, is_new=True)
    wanted = Filter(label=0, order=Order.UNCERTAIN)
    search = Search([str(number) for number in range(30)], features)
    search.choose_typical()
    first = search.find(wanted, [State.NEW] * 30, torch.zeros(30), column)[0]
    assert first == typical[{-1: 0, 0: 1, 1: -1}[said]]


@pytest.mark.parametrize(
    "wrong", [{"part": Part.SURE}, {"order": Order.LIKELY}, {"order": Order.LIKE}]
)
def test_a_filter_that_needs_a_tag(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="needs a tag"):
        Filter(**{"order": Order.NAME} | wrong)
