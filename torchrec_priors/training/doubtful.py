"""Settings that are allowed, but that do harm or nothing in a way that is hard to see."""

from collections.abc import Iterator

from torchrec_priors.ops.in_group_softmax_native import has_products
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.settings.run_config import RunConfig


def doubts(config: RunConfig, tree: PriorTree) -> Iterator[str]:
    """Yields a sentence for each doubtful combination of settings, with the remedy."""
    # In softmaxes of their own, heads learn which item of their group comes next, but not how
    # likely their group is. The maximum then compares numbers that mean different things.
    # Cosines at least have the same range.
    several_softmaxes = tree.item_sets > 1 and config.loss.softmax == "in_group"
    as_they_are = not config.evaluation.calibrated and config.model.score == "dot"
    if several_softmaxes and as_they_are and not config.baseline.name:
        yield (
            "the scores of heads for groups of items are on different scales: try loss.gate=1 "
            "evaluation.calibrated=true, which is often more accurate"
        )

    if config.repeats.weight and config.evaluation.filter_seen:
        yield (
            "the repeat head is trained, but not used, because evaluation.filter_seen leaves out "
            "seen items: set evaluation.filter_seen=false to recommend them"
        )

    kind = config.training.products
    if not has_products(kind, config.model.dim):
        processor = "AMX or AVX512-BF16" if kind == "bf16x1" else "AMX"
        yield (
            f"training.products={kind} changes nothing here, as it needs a processor with "
            f"{processor}, a C++ compiler and a model.dim that is a multiple of 32: matrices are "
            "multiplied as float32"
        )
