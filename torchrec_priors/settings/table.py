"""The section `[table]`: the item table, and the names of tables."""

from dataclasses import dataclass

from torchrec_priors.errors import UserError

TABLE = "item"
PREFIX = "feature_"


@dataclass
class TableConfig:
    """The item table.

    Attributes:
        learning_rate: of the fused row-wise Adagrad, at its peak.
        init_std: standard deviation of the first values.
        pretrained: Parquet file of item vectors (`item_id`, `vector`) that are the first values of their rows; "" for
            none.
    """

    learning_rate: float = 0.05
    init_std: float = 0.02
    pretrained: str = ""

    def check(self) -> None:
        if self.learning_rate < 0 or self.init_std < 0:
            raise UserError("table.learning_rate and table.init_std must not be negative")


def table_of_feature(name: str) -> str:
    """The name of a feature's table.

    >>> table_of_feature("price:32")
    'feature_price'
    """
    return PREFIX + name.partition(":")[0]
