"""A small experiment whose apps only pretend."""

from pathlib import Path

from pretended import Pretended

from torchrec_priors.experiments.matrix import Cell
from torchrec_priors.experiments.plan import plan
from torchrec_priors.experiments.runner import Runner
from torchrec_priors.prepared.data_set import PreparedData


class Small:
    """Cells `one`, `one again` (another evaluation of it) and `two` with seeds 0 and 1, one after another."""

    def __init__(self, folder: Path, data: Path):
        self.out, self.base, self.data = folder / "out", folder / "base.toml", PreparedData(data)
        self.base.write_text("")
        self.launcher = Pretended()
        self.cells = [
            Cell("one", {}, "one"),
            Cell("one again", {"evaluation.filter_seen": False}, "one"),
            Cell("two", {"model.horizon": 2}, "two"),
        ]

    def plan(self, **budget):
        return plan(self.cells, [0, 1], {}, budget)

    def runner(self, split="validation", **options):
        return Runner(self.out, self.base, self.data, split, self.launcher, **options)

    def run(self, **options):
        return self.runner(**options).run_all(self.plan(), 2)
