"""Measure `MultiLabelCRF` in a training loop: the cost of a step, and what the loop learns.

    make bench-layer                                # steps alone, a minute
    make bench-layer DATA=data/mirflickr25k         # what is learned too

A step is the loss and its gradients to logits and couplings: by the layer, by the engine
(`exact_likelihood_loss` on potentials of the same numbers), and by binary cross-entropy, which has
no couplings. They take turns; a ratio is the median of those within a turn, with their quartiles.

What is learned: `mlcrf train` fits head and couplings jointly by exact likelihood, and uses them as
they were fitted (`schedule=joint`, `structure_weights=[1.0]`, `exact_tolerance=1e-4`). The loop
fits `torch.nn.Linear` and the layer on the same features of the same photos, with the same
penalties: 0.15 times the squares of the weights for standardised features, 0.005 times those of the
couplings. Both objectives are computed alike, by the layer in float32.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor, nn

from experiments.benchmarks.timing import (
    describe_machine,
    median_ratio,
    quartiles_of_ratio,
    take_turns,
)
from experiments.frame import features_of, first_photos, table, trained
from mlcrf import MultiLabelCRF, Potentials
from mlcrf.config import TrainSettings
from mlcrf.data.manifest import Split
from mlcrf.data.readers import ReadOptions, read_dataset
from mlcrf.data.splits import split_manifest
from mlcrf.model import LabelCrf
from mlcrf.objectives import exact_likelihood_loss

HERE = Path(__file__).parent
BATCH, TURNS = 256, 25
WEIGHTS, COUPLINGS = 0.3, 0.01  # penalties
TOLERANCE = 1e-4  # nats an image that are left where the run's fit ends, as it estimates them
ENOUGH = 3e-5  # nats an image that ten steps of L-BFGS gain where the loop ends
AT_ONCE = 2048  # photos whose gradient is computed together


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="MIRFLICKR; without, only steps are measured")
    parser.add_argument("--photos", type=int, default=2000, help="training photos of the loop")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=HERE / "layer.json")
    parser.add_argument("--quick", action="store_true", help="8 labels instead of 24, two turns")
    arguments = parser.parse_args()
    kept = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    sizes, turns = ((8,), 2) if arguments.quick else ((12, 24), TURNS)
    record: dict[str, Any] = {
        "machine": describe_machine(),
        "batch": BATCH,
        "steps": [measure(size, share, turns) for size in sizes for share in (0.0, 0.2)],
    }
    if arguments.data is not None:
        record["learned"] = learn(arguments)
    elif "learned" in kept:
        record["learned"] = kept["learned"]
    arguments.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for name, lines in tables(record).items():
        print(f"{name}\n\n{lines}\n")


def measure(num_labels: int, unknown: float, turns: int) -> dict[str, Any]:
    """Return times of a step in milliseconds, and the layer's share of the engine's."""
    torch.manual_seed(0)
    crf = MultiLabelCRF(num_labels)
    nn.init.normal_(crf.pairwise, std=0.5)
    logits = (2 * torch.randn(BATCH, num_labels) - 1).requires_grad_()
    targets = (logits + torch.randn_like(logits) > 0).long()
    targets[torch.rand(targets.shape) < unknown] = -1

    def engine() -> Tensor:
        return exact_likelihood_loss(Potentials(logits, crf.edges, crf.pairwise), targets)

    def independent() -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, targets.clamp(min=0).float())

    losses = {"layer": lambda: crf(logits, targets), "engine": engine, "independent": independent}

    def step(loss: Callable[[], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(loss(), (logits, crf.pairwise), allow_unused=True)

    seconds = take_turns({name: step(loss) for name, loss in losses.items()}, turns=turns)
    return {
        "labels": num_labels,
        "unknown": unknown,
        "ms": {name: 1000 * sorted(times)[turns // 2] for name, times in seconds.items()},
        "turns": turns,
        "ratio": median_ratio(seconds["layer"], seconds["engine"]),
        "quartiles": quartiles_of_ratio(seconds["layer"], seconds["engine"]),
        "same_loss": abs(float(losses["layer"]().detach() - engine().detach())),
    }


def learn(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train a run on some photos, and the loop on the same features of the same photos."""
    counts = {Split.TRAIN: arguments.photos, Split.VALIDATION: arguments.photos // 10}
    everything = split_manifest(read_dataset(arguments.data, ReadOptions(24)), seed=0)
    data = first_photos(everything, counts)
    settings = TrainSettings(
        penalties=(WEIGHTS,), pairwise_penalties=(COUPLINGS,), exact_tolerance=TOLERANCE
    )
    run = trained(data, arguments.runs / f"layer{arguments.photos}", settings)
    return compare(features_of(run, data), torch.from_numpy(data.targets).long(), run.crf)


def compare(features: Tensor, targets: Tensor, model: LabelCrf) -> dict[str, Any]:
    """Fit the loop, and return how far it is from a model that was fitted on the same images."""
    mean, spread = features.double().mean(0), features.double().std(0, correction=0)
    inputs = ((features - mean) / spread).float()
    num_labels = targets.shape[1]
    head = nn.Linear(inputs.shape[1], num_labels)
    crf = MultiLabelCRF(num_labels, edges=model.edges, rules=model.rules)

    def alone() -> Tensor:
        return objective(head, None, inputs, targets)

    independent = minimise([head.weight, head.bias], alone)
    loss = minimise(
        [head.weight, head.bias, crf.pairwise], lambda: objective(head, crf, inputs, targets)
    )
    theirs = nn.Linear(inputs.shape[1], num_labels)  # for standardised features
    couplings = MultiLabelCRF(num_labels, edges=model.edges, rules=model.rules)
    with torch.no_grad():
        theirs.weight.copy_(model.output.weight * spread)
        theirs.bias.copy_(model.output.bias + model.output.weight.double() @ mean)
        couplings.pairwise.copy_(model.pairwise)
    pairs = torch.stack([crf.pairwise.detach(), couplings.pairwise.detach()])
    weights = torch.stack([head.weight.detach().flatten(), theirs.weight.detach().flatten()])
    return {
        "photos": len(inputs),
        "couplings": pairs.shape[1],
        "independent_loss": independent,
        "loop_loss": loss,
        "train_loss": float(objective(theirs, couplings, inputs, targets)),
        "correlation_of_couplings": float(torch.corrcoef(pairs)[0, 1]),
        "largest_difference_of_couplings": float((pairs[0] - pairs[1]).abs().max()),
        "largest_coupling": float(pairs.abs().max()),
        "correlation_of_weights": float(torch.corrcoef(weights)[0, 1]),
    }


def objective(
    head: nn.Linear, crf: MultiLabelCRF | None, inputs: Tensor, targets: Tensor
) -> Tensor:
    """Compute the penalised loss; its gradients are added to those of the parameters."""
    total = WEIGHTS / 2 * head.weight.square().sum()
    if crf is not None:
        total = total + COUPLINGS / 2 * crf.pairwise.square().sum()
    total.backward()
    value = total.detach()
    for rows in torch.arange(len(inputs)).split(AT_ONCE):
        logits, known = head(inputs[rows]), targets[rows]
        if crf is None:
            part = F.binary_cross_entropy_with_logits(logits, known.float(), reduction="sum")
        else:
            part = crf(logits, known, reduction="sum")
        (part / len(inputs)).backward()
        value += part.detach() / len(inputs)
    return value


def minimise(parameters: list[nn.Parameter], compute: Callable[[], Tensor]) -> float:
    """Fit by L-BFGS until ten steps gain hardly anything; return the loss."""
    optimiser = torch.optim.LBFGS(
        parameters, max_iter=10, history_size=100, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        return compute()

    before, after = float("inf"), float(closure())
    while before - after > ENOUGH:
        optimiser.step(closure)
        before, after = after, float(closure())
        print(f"{after:.5f}", flush=True)
    return after


def tables(record: dict[str, Any]) -> dict[str, str]:
    """Tables of the page docs/own-training-loop.md."""
    steps = [
        [
            str(row["labels"]),
            f"{row['unknown']:.0%}",
            *(f"{row['ms'][name]:.1f}" for name in ("layer", "engine", "independent")),
            f"{row['ratio']:.2f} ({row['quartiles'][0]:.2f} to {row['quartiles'][1]:.2f})",
        ]
        for row in record["steps"]
    ]
    head = ["labels", "unknown", "layer, ms", "engine, ms", "cross-entropy, ms", "layer / engine"]
    found = {"steps": table(steps, head)}
    if "learned" in record:
        row = record["learned"]
        found["learned"] = table(
            [
                [
                    f"{row['photos']:,}",
                    f"{row['loop_loss']:.4f}",
                    f"{row['train_loss']:.4f}",
                    f"{row['independent_loss']:.4f}",
                    f"{row['correlation_of_couplings']:.5f}",
                    f"{row['largest_difference_of_couplings']:.3f}",
                ]
            ],
            [
                "photos",
                "loss of the loop",
                "of `mlcrf train`",
                "without couplings",
                "correlation of couplings",
                "largest difference",
            ],
        )
    return found


if __name__ == "__main__":
    main()
