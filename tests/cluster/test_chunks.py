"""What goes to a cluster comes back as it was, and every picture once."""

import os

import pytest

from mlcrf.errors import ClusterError
from mlcrf.images import ListedImages, as_image
from mlcrf.prediction import TOGETHER, Prediction

pytest.importorskip("ray", reason="needs mlcrf[ray]")

from mlcrf.cluster.chunks import (
    Said,
    cut,
    in_order,
    pack_pictures,
    pack_said,
    unpack_pictures,
    unpack_said,
)
from mlcrf.cluster.coordinator import Plan, make_plan

ODD = [as_image(name) for name in ("a b\n.jpg", os.fsdecode(b"caf\xe9.jpg"), "s3://b//x y.jpg")]


def test_odd_names_and_numbers_come_back() -> None:
    """Of pictures, of what is said of them, of notes and of a failure."""
    chunk = list(enumerate(ODD, start=7))
    assert unpack_pictures(pack_pictures(chunk)) == chunk
    said = [
        Prediction(one, ("sea",), (0.1, 1 / 3), (0.0, 1e-30), ("sea",), listed=at)
        for at, one in chunk
    ]
    broken = Prediction(ODD[1], error=f"{ODD[1]}: broken", listed=10)
    whole = Said([*said, broken], ["slow"], "no more")
    assert unpack_said(pack_said(whole)) == whole
    assert unpack_said(pack_said(Said())) == Said([], [])


def test_chunks_are_what_would_be_worked_on_together() -> None:
    """All but the last as long as the CRF's; with albums no folder's thousand is cut."""
    pictures = ListedImages(lambda: [as_image(f"{at // 100}/{at}.jpg") for at in range(1030)])
    chunks = list(cut(pictures, album=False))
    assert [len(one) for one in chunks] == [TOGETHER] * 4 + [1030 - 4 * TOGETHER]
    assert [number for chunk in chunks for number, _ in chunk] == list(range(1030))
    chunks = list(cut(pictures, album=True))
    assert [len(one) for one in chunks] == [300, 300, 300, 130]
    large = ListedImages(lambda: [as_image(f"one/{at}.jpg") for at in range(2500)])
    assert [len(one) for one in cut(large, album=True)] == [1024, 1024, 452]


@pytest.mark.parametrize("listed", [[0, 1, 1, 2], [0, 2], [0, 1], [1, 0, 2], [0, 1, 2, 3]])
def test_missing_double_and_strange_pictures_are_found(listed: list[int]) -> None:
    """Of three pictures; in order there is no complaint."""
    answers = [Prediction(as_image(f"{at}"), listed=at) for at in range(4)]
    assert list(in_order(answers[:3], 3)) == answers[:3]
    with pytest.raises(ClusterError, match="start again"):
        list(in_order([answers[at] for at in listed], 3))


@pytest.mark.parametrize(
    ("cores", "workers", "expected"),
    [
        ([2], None, Plan(1, 2)),
        ([16], None, Plan(4, 4)),
        ([2, 2, 7, 0], None, Plan(5, 2)),
        ([2], 2, Plan(2, 1)),
        ([8, 8], 3, Plan(3, 4)),
        ([8, 8], 1, Plan(1, 8)),
    ],
)
def test_workers_fill_the_machines(cores: list[int], workers: int | None, expected: Plan) -> None:
    """All with as many cores; machines without cores are left out."""
    assert make_plan([{"CPU": count} for count in cores], workers) == expected


def test_plans_that_cannot_be() -> None:
    """More workers than cores, no cores, no GPU; with GPUs each has one."""
    with pytest.raises(ClusterError, match="has 2 cores, for 3 workers"):
        make_plan([{"CPU": 2}], 3)
    with pytest.raises(ClusterError, match="has 0 cores"):
        make_plan([{}])
    with pytest.raises(ClusterError, match="no GPU"):
        make_plan([{"CPU": 2}], on_gpus=True)
    assert make_plan([{"CPU": 8, "GPU": 2}, {"GPU": 1}], on_gpus=True) == Plan(3, 1, 1)
