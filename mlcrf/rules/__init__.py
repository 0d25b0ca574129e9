"""Rules between labels: implications, and limits on how many labels of a group are present."""

from mlcrf.rules.limit import Limit
from mlcrf.rules.lines import read_rules
from mlcrf.rules.ruleset import Pair, Rule, Rules, find_cycle, rule_text

__all__ = [
    "Limit",
    "Pair",
    "Rule",
    "Rules",
    "find_cycle",
    "read_rules",
    "rule_text",
]
