"""Defines rules that rows of a raw table must fulfil, and a query that finds rows that break them.

One query checks several rules, because each query reads the whole table.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import ibis
import ibis.expr.types as ir

from torchrec_priors.preparation.engine.source import ORDER

_RULE = "_rule"


@dataclass(frozen=True)
class Rule:
    """A rule such as "timestamp must not be negative", in words and as an expression.

    Attributes:
        column: the column named in error messages, along with its value in the first row that
            breaks the rule.
        must: the rest of the rule in words, such as "must not be negative".
        valid: an expression of the table that is true for valid rows (null counts as invalid), or
            another table that lists the allowed values in a column with the name `column`.
    """

    column: str
    must: str
    valid: ir.BooleanValue | ir.Table

    @property
    def reason(self) -> str:
        return f"{self.column} {self.must}"


def broken(table: ir.Table, rules: Sequence[Rule]) -> ir.Table:
    """Returns a table with one row for each rule that is broken.

    The columns are `rule` (the index of the rule), `rows` (the number of rows that break it) and
    `first` (the smallest `order` of these rows). A row that breaks several rules counts only for
    the first of them.
    """
    reasons = _by_rule(table, rules)
    return reasons.group_by(rule=reasons[_RULE]).aggregate(
        rows=reasons.count(), first=reasons[ORDER].min()
    )


def first_broken(table: ir.Table, rules: Sequence[Rule], number: int, order: int) -> ir.Table:
    """Returns one row with the column `value`: the first value that breaks a rule.

    Several rows of the table may come from the same row of a file, and only some of these may
    break the rule.

    Args:
        table: the table.
        rules: all rules.
        number: the index of the rule.
        order: the `order` of the row, which is `first` in the result of `broken`.
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
            # A null in the list of allowed values does not make null valid.
            allowed = rule.valid.filter(rule.valid[rule.column].notnull())
            rows = rows.semi_join(allowed, rule.column)
    return rows


def _by_rule(table: ir.Table, rules: Sequence[Rule]) -> ir.Table:
    """Returns the rows that break rules, each with the index of the first broken rule."""
    flags = {
        f"_valid{i}": rule.valid.fill_null(False)
        for i, rule in enumerate(rules)
        if not _lists(rule)
    }
    flagged = table.mutate(**flags)

    for i, rule in enumerate(rules):
        if isinstance(rule.valid, ir.Table):
            # Repeats are removed, because a value that is listed twice would double the rows.
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
    """Returns whether the rule is a table of allowed values, not an expression."""
    return isinstance(rule.valid, ir.Table)
