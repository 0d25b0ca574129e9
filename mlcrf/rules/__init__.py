"""Rules between labels: implications, and limits on how many labels of a group are present."""

from mlcrf.rules.limit import Limit
from mlcrf.rules.lines import parse_rule, read_rules
from mlcrf.rules.ruleset import Broken, Pair, Rule, Rules, find_cycle, rule_text

__all__ = [
    "Broken",
    "Limit",
    "Pair",
    "Rule",
    "Rules",
    "find_cycle",
    "parse_rule",
    "read_rules",
    "rule_text",
]
