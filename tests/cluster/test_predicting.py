"""Images are cut into parts, and workers fill a cluster's machines."""

import pytest

from mlcrf.errors import ClusterError
from mlcrf.images import ListedImages, as_image
from mlcrf.prediction import TOGETHER

pytest.importorskip("ray", reason="needs mlcrf[ray]")

from mlcrf.cluster.predicting import Plan, cut, plan_workers


def test_parts_are_what_would_be_worked_on_together() -> None:
    """All but the last as long as the CRF's; with albums no folder's thousand is cut."""
    pictures = ListedImages(lambda _: [as_image(f"{at // 100}/{at}.jpg") for at in range(1030)])
    chunks = list(cut(pictures, album=False))
    assert [len(one) for one in chunks] == [TOGETHER] * 4 + [1030 - 4 * TOGETHER]
    assert [number for chunk in chunks for number, _ in chunk] == list(range(1030))
    chunks = list(cut(pictures, album=True))
    assert [len(one) for one in chunks] == [300, 300, 300, 130]
    large = ListedImages(lambda _: [as_image(f"one/{at}.jpg") for at in range(2500)])
    assert [len(one) for one in cut(large, album=True)] == [1024, 1024, 452]


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
    assert plan_workers([{"CPU": count} for count in cores], workers) == expected


def test_plans_that_cannot_be() -> None:
    """More workers than cores, no cores, no GPU; with GPUs each has one."""
    with pytest.raises(ClusterError, match="has 2 cores, for 3 workers"):
        plan_workers([{"CPU": 2}], 3)
    with pytest.raises(ClusterError, match="has 0 cores"):
        plan_workers([{}])
    with pytest.raises(ClusterError, match="no GPU"):
        plan_workers([{"CPU": 2}], on_gpus=True)
    assert plan_workers([{"CPU": 8, "GPU": 2}, {"GPU": 1}], on_gpus=True) == Plan(3, 1, 1)
