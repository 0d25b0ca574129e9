"""Do photos of one album inform each other? Albums with a planted chain of scenes.

    python -m experiments.albums.run [--quick]

MIRFLICKR has no albums, so they are made: label sets of training images fall into ten clusters, a
chain stays in its cluster with probability 0.8 and else goes to any, and each step takes a photo of
the cluster that was not taken yet. An album is a folder of twelve links, named in order. Beside
them the same photos in random order, where there is nothing to gain.
"""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2, vq
from torch import Tensor

from experiments import frame
from experiments.frame import Rows, percent
from mlcrf.checkpoint import Run
from mlcrf.choices import Structure
from mlcrf.config import TrainSettings
from mlcrf.data.manifest import Manifest, Split
from mlcrf.images import as_image
from mlcrf.images.albums import find_albums
from mlcrf.inference import Exact, Independent
from mlcrf.latent import SceneChain, ScenePotentials, SceneSum, share_in_albums
from mlcrf.metrics import Predictions, Statistics, bootstrap_differences, gather_statistics

CLUSTERS, STAY, LENGTH = 10, 0.8, 12
SCENES = (8, 16)
SAMPLES = 500
# what validation images chose from the usual ones for 24 labels
PENALTIES: dict[str, Any] = {"penalties": (0.1,), "pairwise_penalties": (1e-4, 1e-3)}
_ENDLESS = timedelta(days=36500)


def plant(data: Manifest, folder: Path, *, shuffled: bool, seed: int) -> Manifest:
    """The same photos as links in albums; those that fill no album are left out."""
    rng = np.random.default_rng(seed)
    fitted = np.array(data.splits) != Split.TEST
    y = data.targets.astype(np.float64)
    centres, _ = kmeans2(y[fitted], CLUSTERS, minit="++", rng=np.random.default_rng(0))
    cluster, _ = vq(y, centres)
    rows: list[int] = []
    links: list[Path] = []
    for split in Split:
        places = np.flatnonzero(np.array(data.splits) == split)
        for number, album in enumerate(_albums(places, cluster[places], rng)):
            order = rng.permutation(album) if shuffled else album
            rows += order.tolist()
            home = folder / f"{split.value}-{number:04d}"
            links += [
                home / f"{at:02d}-{data.images[row].file_name}" for at, row in enumerate(order)
            ]
    if shuffled:  # across albums too, within a split
        splits = np.array(data.splits)[rows]
        for split in Split:
            where = np.flatnonzero(splits == split)
            taken = rng.permutation(np.array(rows)[where])
            for place, row in zip(where, taken, strict=True):
                rows[place] = int(row)
    for link, row in zip(links, rows, strict=True):
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(data.images[row].address)
    return replace(data.rows(np.array(rows)), images=tuple(map(as_image, links)))


def _albums(
    places: NDArray[np.int64], cluster: NDArray[np.int32], rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Chains of places, none twice."""
    left = {one: rng.permutation(places[cluster == one]).tolist() for one in range(CLUSTERS)}
    sizes = np.bincount(cluster, minlength=CLUSTERS) / len(cluster)
    albums = []
    for _ in range(len(places) // LENGTH):
        scene = int(rng.choice(CLUSTERS, p=sizes))
        album = []
        for _ in range(LENGTH):
            if rng.random() > STAY or not left[scene]:
                open_ones = [one for one in left if left[one]]
                share = sizes[open_ones] / sizes[open_ones].sum()
                scene = int(rng.choice(open_ones, p=share))
            album.append(left[scene].pop())
        albums.append(np.array(album))
    return albums


def main() -> None:
    """Plant, train, score, and keep the figures."""
    arguments = frame.read_options(__doc__, "albums")
    data = frame.photos(arguments)
    crf = frame.default_run(arguments, data)
    more = frame.QUICK if arguments.quick else PENALTIES
    rows: Rows = []
    for order in ("chain", "random order"):
        folder = arguments.runs / "albums" / f"photos-{order.replace(' ', '-')}"
        planted = plant(data, folder, shuffled=order != "chain", seed=0)
        test = planted.part(Split.TEST)
        features = None
        for scenes in SCENES[:1] if arguments.quick else SCENES:
            settings = TrainSettings(structure=Structure.LATENT, scenes=scenes, albums=True, **more)
            name = f"{order.replace(' ', '-')}-{scenes}"
            run = frame.trained(planted, arguments.runs / "albums" / name, settings)
            if features is None:
                features = frame.features_of(run, test)
            rows += _score(run, crf, features, test, order, scenes, arguments.resamples)
            frame.keep(arguments, rows)
    print(tables({"rows": rows})["albums"])


@torch.no_grad()
def _score(
    run: Run,
    crf: Run,
    features: Tensor,
    test: Manifest,
    order: str,
    scenes: int,
    resamples: int,
) -> Rows:
    """Every model on the test albums; likelihoods of an album's sets a photo."""
    y = torch.from_numpy(test.targets.astype(np.int64))
    albums = [torch.tensor(one) for one in find_albums(test.images, gap=_ENDLESS)]
    mixture = run.crf(features)
    method = run.make_inference()
    assert isinstance(mixture, ScenePotentials) and isinstance(method, SceneSum)
    assert run.crf.transitions is not None
    chain = SceneChain(run.crf.transitions)
    places = [album.tolist() for album in albums]
    heard = share_in_albums(mixture, method, chain.transitions, places)
    evidence = method.evidence(mixture, y)
    told = mixture.gates.log_softmax(-1) + evidence
    apart = -told.logsumexp(-1)
    # an album's joint likelihood, shared out evenly among its photos
    together = torch.zeros_like(apart)
    for album in albums:
        joint = chain.log_partition(told[album]) - chain.log_partition(
            mixture.gates[album].log_softmax(-1)
        )
        together[album] = -joint / len(album)
    plain = run.independent(features)
    coupled = crf.crf(features)
    exact = Exact()
    beliefs = exact(coupled)
    coupled_nll = beliefs.log_partition - coupled.log_score(y)
    both, both_nll = _product(exact, coupled, mixture, heard, method, y)
    statistics = {
        "independent": _statistics(
            plain.unary.sigmoid(), Independent()(plain).log_partition - plain.log_score(y), y
        ),
        "scenes, photos apart": _statistics(method(mixture).marginals, apart, y),
        "scenes, in albums": _statistics(method(heard).marginals, together, y),
        "CRF, photos apart": _statistics(beliefs.marginals, coupled_nll, y),
        "CRF and scenes in albums": _statistics(both, both_nll, y),
    }
    base = {"independent": "independent", "scenes, photos apart": "independent"}
    base |= {"scenes, in albums": "scenes, photos apart", "CRF, photos apart": "independent"}
    base |= {"CRF and scenes in albums": "CRF, photos apart"}
    found = []
    for name, one in statistics.items():
        measures = one.measures()
        difference = bootstrap_differences(one, statistics[base[name]], resamples=resamples, seed=0)
        found.append(
            {
                "order": order,
                "scenes": scenes,
                "model": name,
                "beside": base[name],
                "nll": measures.nll,
                "hamming": measures.hamming,
                "mean_average_precision": measures.mean_average_precision,
                "difference": {
                    key: difference[key] for key in ("nll", "hamming", "mean_average_precision")
                },
            }
        )
    return found


def _product(
    exact: Exact,
    coupled: Any,
    mixture: ScenePotentials,
    heard: ScenePotentials,
    method: SceneSum,
    y: Tensor,
) -> tuple[Tensor, Tensor]:
    """The CRF times what the album adds, P(y | album) / P(y | photo), by samples of the CRF.

    Returns:
        Marginals (N, L) and the negative log-likelihood of each photo's own set given the photos
        (not the labels) of its album (N,); both estimates from `SAMPLES` weighted samples.
    """
    generator = torch.Generator().manual_seed(0)
    marginals, nll = [], []

    def ratio(rows: slice, states: Tensor) -> Tensor:
        parts = [method.log_probability(one.rows(rows), states) for one in (heard, mixture)]
        return parts[0] - parts[1]

    for start in range(0, len(y), 100):
        rows = slice(start, start + 100)
        drawn = exact.sample(coupled.rows(rows), SAMPLES, generator).long()
        weight = ratio(rows, drawn)
        log_mean = weight.logsumexp(0) - np.log(SAMPLES)
        share = weight.softmax(0)
        marginals.append((share.unsqueeze(-1) * drawn).sum(0))
        own = coupled.rows(rows).log_score(y[rows]) - exact(coupled.rows(rows)).log_partition
        nll.append(-(own + ratio(rows, y[rows]) - log_mean))
    return torch.cat(marginals), torch.cat(nll)


def _statistics(marginals: Tensor, nll: Tensor, y: Tensor) -> Statistics:
    states = (marginals > 0.5).long().numpy()
    return gather_statistics(
        Predictions(marginals.double().numpy(), states, nll.double().numpy()),
        y.numpy().astype(np.int8),
    )


def tables(results: dict[str, Any]) -> dict[str, str]:
    """`albums`: each model, with its gain over the one that it goes beyond."""
    lines = []
    for row in results["rows"]:
        gains = row["difference"]
        first = row["model"] == "independent"
        lines.append(
            [
                row["order"],
                str(row["scenes"]),
                row["model"],
                f"{row['nll']:.3f}",
                "" if first else frame.gain(gains["nll"], 1),
                percent(row["hamming"]),
                "" if first else frame.gain(gains["hamming"]),
                percent(row["mean_average_precision"]),
                "" if first else frame.gain(gains["mean_average_precision"]),
                "" if first else row["beside"],
            ]
        )
    head = ["photos in", "scenes", "model", "nll", "gain [95 %]", "wrong, %", "gain [95 %]"]
    return {"albums": frame.table(lines, [*head, "mAP, %", "gain [95 %]", "beside"])}


if __name__ == "__main__":
    main()
