"""Chooses labels by how frequent they are: one for each user, or the largest ones of a prior."""

import ibis
import ibis.expr.types as ir


def most_frequent(log: ir.Table, label: ir.StringValue) -> ir.Table:
    """Returns a table of (user_id, label) with the most frequent label of each user.

    Of equally frequent labels, the first by name is used. Users whose labels are all null have no
    row.

    Args:
        log: a table with a column `user_id` and any number of rows for each user.
        label: an expression of this table; null is not a label.
    """
    values = log.select(user_id=log.user_id.cast("int64"), label=label)
    values = values.filter(values.label.notnull())

    counts = values.group_by(["user_id", "label"]).aggregate(n=values.count())
    by_frequency = ibis.window(
        group_by=counts.user_id, order_by=[ibis.desc(counts.n), counts.label]
    )
    ranked = counts.mutate(place=ibis.row_number().over(by_frequency))
    return ranked.filter(ranked.place == 0).select("user_id", "label")


def largest(labels: ir.Table, most: int, others: str) -> ir.Table:
    """Returns the table with the labels of most items, and one label for all other labels.

    Of labels with equally many items, the first by name is larger.

    Args:
        labels: a table of (item_id, label) without nulls.
        most: the number of labels that are kept.
        others: the label of the items of all other labels.
    """
    # The number of items of a label counts, not the number of interactions.
    counts = labels.group_by("label").aggregate(n=labels.count())
    by_size = counts.order_by([ibis.desc("n"), "label"])
    kept = by_size.limit(most).select(kept="label")

    # `kept` is null here for all other labels.
    joined = labels.left_join(kept, labels.label == kept.kept)
    return joined.select("item_id", label=joined.kept.fill_null(others))
