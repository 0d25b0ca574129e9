"""Rules as part of the `state_dict` of a module."""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mlcrf.rules import Limit, Rules


class HasRules(Protocol):
    """A module with rules between its labels."""

    num_labels: int
    rules: Rules


def keep_rules_in_state(model: nn.Module) -> None:
    """Let a module's `state_dict` hold its rules, and loading one replace them.

    Implications are int64 (R, 2); limits, if there are any, float64 (M, L + 3): least, most,
    weight (0 if hard), and the place of each label in the group, from 1.

    Args:
        model: a module with `num_labels` and `rules`.
    """
    model.register_state_dict_post_hook(_save_rules)  # type: ignore[no-untyped-call]
    model.register_load_state_dict_pre_hook(_load_rules)  # type: ignore[no-untyped-call]


def _save_rules(model: HasRules, state: dict[str, Any], prefix: str, *_: Any) -> None:
    state[f"{prefix}implications"] = torch.tensor(model.rules.array)
    limits = model.rules.limits
    if limits:
        rows = torch.zeros(len(limits), model.num_labels + 3, dtype=torch.float64)
        for row, limit in zip(rows, limits, strict=True):
            row[:3] = torch.tensor([limit.least, limit.most, limit.weight or 0])
            row[3 + torch.tensor(limit.labels)] = torch.arange(1.0, len(limit.labels) + 1).double()
        state[f"{prefix}limits"] = rows


def _load_rules(
    model: HasRules,
    state: dict[str, Any],
    prefix: str,
    _metadata: object,
    _strict: bool,
    missing: list[str],
    *_: object,
) -> None:
    """Take the rules out of a state."""
    name = f"{prefix}implications"
    limits = tuple(_read_limit(row) for row in state.pop(f"{prefix}limits", torch.empty(0, 3)))
    if name in state:
        model.rules = Rules.from_array(state.pop(name).cpu().numpy(), limits)
    else:
        missing.append(name)


def _read_limit(row: Tensor) -> Limit:
    place = row[3:].cpu()
    labels = place.nonzero().squeeze(1)
    ordered = labels[place[labels].argsort()]
    weight = float(row[2])
    return Limit(tuple(ordered.tolist()), int(row[0]), int(row[1]), weight or None)
