"""Known labels, closed under rules."""

import torch
from torch import Tensor

from mlcrf.crf.potentials import Potentials
from mlcrf.errors import PotentialsError
from mlcrf.labels import UNKNOWN
from mlcrf.rules import Limit, Rule


def check_known(potentials: Potentials, known: Tensor | None, *, name: str = "known") -> Tensor:
    """Return known labels as an int64 tensor (N, L) of 1, 0 and -1 (unknown); all unknown if None.

    Labels that follow by rules become known too; see `Rules.close`.

    Args:
        name: of the argument, for errors.

    Raises:
        PotentialsError: wrong shape or value, or labels that no label set under the rules has.
    """
    if known is None:
        return torch.full(
            potentials.unary.shape, UNKNOWN, dtype=torch.int64, device=potentials.unary.device
        )
    if known.shape != potentials.unary.shape:
        raise PotentialsError(
            f"{name}: expected {tuple(potentials.unary.shape)}, got {tuple(known.shape)}"
        )
    if not bool(((known == 0) | (known == 1) | (known == UNKNOWN)).all()):
        raise PotentialsError(f"{name}: expected 1 (present), 0 (absent) or -1 (unknown)")
    known = known.to(device=potentials.unary.device, dtype=torch.int64)
    rules = potentials.rules
    if not len(rules):
        return known
    values = known.cpu().numpy()
    broken = rules.contradiction(values)
    if broken:
        raise PotentialsError(f"{name}: image {broken.image} {_told(broken.rule)}")
    return torch.from_numpy(rules.close(values)).to(known.device)


def _told(rule: Rule) -> str:
    if isinstance(rule, Limit):
        columns = [str(column) for column in range(1 + max(rule.labels))]
        return f"breaks a rule on labels: {rule.text(columns)}"
    child, parent = rule
    return f"has label {child} without label {parent}, which it implies"
