"""The section `[table]`: the item table, and the names of tables."""

from dataclasses import dataclass

from torchrec_priors.settings.ranges import Amount, Section, check_ranges

TABLE = "item"
PREFIX = "feature_"


@dataclass
class TableConfig(Section):
    """The item table.

    Attributes:
        learning_rate: peak learning rate of the fused row-wise Adagrad.
        init_std: standard deviation of the initial values.
        pretrained: a Parquet file with vectors of items (columns `item_id` and `vector`), which
            become the initial values of the items' rows; empty for none.
    """

    learning_rate: Amount = 0.05
    init_std: Amount = 0.02
    pretrained: str = ""

    def check(self) -> None:
        """Raises UserError if a value is out of its range."""
        check_ranges(self, "table")


def table_of_feature(name: str) -> str:
    """Returns the name of a feature's table.

    >>> table_of_feature("price:32")
    'feature_price'
    """
    return PREFIX + name.partition(":")[0]
