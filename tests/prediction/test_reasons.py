"""Where a label's log-odds come from: shares of places add up, for every kind of head."""

import pytest
import torch

from mlcrf.model import LabelCrf
from mlcrf.prediction.reasons import map_evidence


@pytest.mark.parametrize("hidden", [0, 6])
@pytest.mark.parametrize("sizes", [[(3, 5)], [(7, 7), (8, 6)]], ids=["one", "two-networks"])
def test_map_adds_up_to_the_unary(sizes: list[tuple[int, int]], hidden: int) -> None:
    """Its places and the bias are the label's log-odds on its own."""
    generator = torch.Generator().manual_seed(0)
    maps = [torch.rand(4, *size, generator=generator) for size in sizes]
    crf = LabelCrf(4 * len(maps), 3, hidden=hidden)
    with torch.no_grad():
        for value in crf.parameters():
            value.normal_(generator=generator)
        unary = crf.unary(torch.cat([one.mean((1, 2)) for one in maps]))
    for label in range(3):
        found = map_evidence(crf, maps, label)
        assert found.values.shape == tuple(max(side) for side in zip(*sizes, strict=True))
        assert found.values.sum() + found.bias == pytest.approx(float(unary[label]), abs=1e-5)


def test_map_keeps_places() -> None:
    """A feature in the last corner of a coarse map is in that corner of the finer one."""
    maps = [torch.zeros(1, 2, 2), torch.zeros(1, 4, 4)]
    maps[0][0, 1, 1] = 1
    crf = LabelCrf(2, 1)
    with torch.no_grad():
        crf.output.weight.fill_(16)
    expected = torch.zeros(4, 4, dtype=torch.float64)
    expected[2:, 2:] = 1
    assert torch.equal(torch.from_numpy(map_evidence(crf, maps, 0).values), expected)
