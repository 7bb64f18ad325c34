"""Rules that rows of a raw table must fulfil, and one query that finds the rows that break them."""

from collections.abc import Sequence
from dataclasses import dataclass

import ibis
import ibis.expr.types as ir

from torchrec_priors.preparation.engine.source import ORDER

_RULE = "_rule"


@dataclass(frozen=True)
class Rule:
    """A rule "`column` `must`", in words and as an expression.

    Attributes:
        column: Column that messages name, with its value in the first row that breaks the rule.
        must: Text such as "must not be negative".
        valid: An expression of the table, of which null counts as invalid; or a table whose column
            of the same name lists the allowed values.
    """

    column: str
    must: str
    valid: ir.BooleanValue | ir.Table

    @property
    def reason(self) -> str:
        return f"{self.column} {self.must}"


def broken(table: ir.Table, rules: Sequence[Rule]) -> ir.Table:
    """Returns (rule, rows, first) for each broken rule: its number, its rows, the first `order`.

    A row counts for the first rule that it breaks.
    """
    reasons = _by_rule(table, rules)
    return reasons.group_by(rule=reasons[_RULE]).aggregate(
        rows=reasons.count(), first=reasons[ORDER].min()
    )


def first_broken(table: ir.Table, rules: Sequence[Rule], number: int, order: int) -> ir.Table:
    """Returns one row, `value`: the value that breaks a rule where it is broken first.

    Several rows of the table may come from one row of a file, and some of them may break no rule.

    Args:
        table: The table.
        rules: All rules.
        number: Number of the rule.
        order: `order` of the row, as `broken` gives it.
    """
    rows = _by_rule(table.filter(table[ORDER] == order), rules)
    rows = rows.filter(rows[_RULE] == number)
    return rows.select(value=rules[number].column).limit(1)


def kept(table: ir.Table, rules: Sequence[Rule]) -> ir.Table:
    """Returns the rows that fulfil all rules."""
    conditions = [rule.valid.fill_null(False) for rule in rules if not _lists(rule)]
    rows = table.filter(*conditions) if conditions else table
    for rule in rules:
        if isinstance(rule.valid, ir.Table):
            # A null in the list allows no null.
            allowed = rule.valid.filter(rule.valid[rule.column].notnull())
            rows = rows.semi_join(allowed, rule.column)
    return rows


def _by_rule(table: ir.Table, rules: Sequence[Rule]) -> ir.Table:
    """Returns the rows that break rules, each with the number of the first one that it breaks."""
    flags = {
        f"_valid{i}": rule.valid.fill_null(False)
        for i, rule in enumerate(rules)
        if not _lists(rule)
    }
    flagged = table.mutate(**flags)

    for i, rule in enumerate(rules):
        if isinstance(rule.valid, ir.Table):
            # Distinct: a value that is listed twice must not double the rows.
            listed = rule.valid.select(**{f"_listed{i}": rule.valid[rule.column]}).distinct()
            joined = flagged.left_join(listed, flagged[rule.column] == listed[f"_listed{i}"])
            flagged = joined.mutate(**{f"_valid{i}": joined[f"_listed{i}"].notnull()})
            flagged = flagged.drop(f"_listed{i}")

    breaks = [(~flagged[f"_valid{i}"], i) for i in range(len(rules))]
    numbered = flagged.select(
        *table.columns, **{_RULE: ibis.cases(*breaks, else_=None).cast("int32")}
    )
    return numbered.filter(numbered[_RULE].notnull())


def _lists(rule: Rule) -> bool:
    """Returns whether the rule lists the allowed values."""
    return isinstance(rule.valid, ir.Table)
