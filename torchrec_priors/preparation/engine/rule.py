"""What rows of a raw table must fulfil, and one query that finds those that do not."""

from collections.abc import Sequence
from dataclasses import dataclass

import ibis
import ibis.expr.types as ir

from torchrec_priors.preparation.engine.source import ORDER

_RULE = "_rule"


@dataclass(frozen=True)
class Rule:
    """`column` `must`, in words and as an expression.

    Attributes:
        column: named in messages, with its value in the first row that breaks the rule.
        must: such as "must not be negative".
        valid: an expression of the table, where null counts as not valid; or a table whose column of the same name
            lists the values that are allowed.
    """

    column: str
    must: str
    valid: ir.BooleanValue | ir.Table

    @property
    def reason(self) -> str:
        return f"{self.column} {self.must}"


def broken(table: ir.Table, rules: Sequence[Rule]) -> ir.Table:
    """(rule, rows, first): for each rule that rows break, how many and the smallest `order`.

    A row counts for the first rule that it breaks.
    """
    reasons = _by_rule(table, rules)
    return reasons.group_by(rule=reasons[_RULE]).aggregate(
        rows=reasons.count(), first=reasons[ORDER].min()
    )


def first_broken(table: ir.Table, rules: Sequence[Rule], number: int, order: int) -> ir.Table:
    """One row, `value`: what breaks a rule where it is broken first, as `broken` counts.

    Several rows of the table may come from one row of a file, of which others break no rule.

    Args:
        number: of the rule.
        order: of the row, as `broken` gives it.
    """
    found = _by_rule(table.filter(table[ORDER] == order), rules)
    found = found.filter(found[_RULE] == number)
    return found.select(value=rules[number].column).limit(1)


def _by_rule(table: ir.Table, rules: Sequence[Rule]) -> ir.Table:
    """The rows that break rules, each with the number of the first one that it breaks."""
    flags = {
        f"_valid{i}": rule.valid.fill_null(False)
        for i, rule in enumerate(rules)
        if not _lists(rule)
    }
    flagged = table.mutate(**flags)
    for i, rule in enumerate(rules):
        if isinstance(rule.valid, ir.Table):
            listed = rule.valid.select(**{f"_listed{i}": rule.valid[rule.column]}).distinct()
            joined = flagged.left_join(listed, flagged[rule.column] == listed[f"_listed{i}"])
            flagged = joined.mutate(**{f"_valid{i}": joined[f"_listed{i}"].notnull()}).drop(
                f"_listed{i}"
            )
    breaks = [(~flagged[f"_valid{i}"], i) for i in range(len(rules))]
    numbered = flagged.select(
        *table.columns, **{_RULE: ibis.cases(*breaks, else_=None).cast("int32")}
    )
    return numbered.filter(numbered[_RULE].notnull())


def kept(table: ir.Table, rules: Sequence[Rule]) -> ir.Table:
    """The rows that fulfil all rules."""
    conditions = [rule.valid.fill_null(False) for rule in rules if not _lists(rule)]
    rest = table.filter(*conditions) if conditions else table
    for rule in rules:
        if isinstance(rule.valid, ir.Table):
            rest = rest.semi_join(rule.valid.filter(rule.valid[rule.column].notnull()), rule.column)
    return rest


def _lists(rule: Rule) -> bool:
    return isinstance(rule.valid, ir.Table)
