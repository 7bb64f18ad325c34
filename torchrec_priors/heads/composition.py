"""Makes the heads of a configuration, and checks that they have few enough parameters."""

from torchrec_priors.errors import UserError
from torchrec_priors.heads.nodes import Depth
from torchrec_priors.heads.prior_heads import PriorHeads
from torchrec_priors.priors.tree import PriorTree
from torchrec_priors.settings.priors import PriorsConfig


def make_heads(tree: PriorTree, dim: int, config: PriorsConfig, depths: list[Depth]) -> PriorHeads:
    """Returns the heads of a tree, with initial values from torch's generator.

    Args:
        tree: the prior tree.
        dim: d.
        config: the section `priors` of the configuration.
        depths: the nodes with adapters, as `nodes` returns them.
    """
    if config.adapters == "none":
        assert not depths, "heads without adapters have no nodes"
        return PriorHeads(tree, dim, [])
    return PriorHeads(tree, dim, depths, kind=config.adapters, init_std=config.init_std)


def count_parameters(tree: PriorTree, dim: int, config: PriorsConfig) -> int:
    """Counts the parameters of adapters and group embeddings if every node has an adapter."""
    if config.adapters == "none":
        return 0
    nodes = sum(tree.nodes_at)
    if config.adapters == "vector":
        return nodes * dim

    group_embeddings = 0
    if tree.composition == "hierarchical":
        group_embeddings = sum(len(groups) for groups in tree.group_names[:-1])
    return nodes * dim**2 + group_embeddings * dim


def check_budget(tree: PriorTree, dim: int, config: PriorsConfig) -> None:
    """Raises UserError if the tree has more parameters than the configuration allows.

    The parameters are counted, not allocated, so even a tree that does not fit into memory gets
    this message.
    """
    parameters = count_parameters(tree, dim, config)
    if parameters > config.max_parameters:
        raise UserError(
            f"priors.tree: {len(tree.item_set_K):,} paths have {parameters:,} parameters at"
            f" model.dim = {dim}, more than priors.max_parameters = {config.max_parameters:,}:"
            " use fewer or coarser priors, a smaller model.dim or priors.adapters=vector, or raise"
            " priors.max_parameters"
        )
