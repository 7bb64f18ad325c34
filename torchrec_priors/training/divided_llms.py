"""Divides the language models of a model among ranks (FSDP2 of `torch.distributed`).

Each rank keeps a part of every parameter, of its gradient and of the optimizer's state. A layer is
put together when it computes, and is freed afterwards. Gradients are averaged over ranks when they
are sent to the ranks that keep them, so DDP leaves these parameters out.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from torchrec_priors.encoder.item_llm import ItemLLM
from torchrec_priors.encoder.llm import LLM
from torchrec_priors.errors import UserError
from torchrec_priors.model.recommender import Recommender
from torchrec_priors.ranks.process import Ranks


def divide_language_models(model: Recommender, ranks: Ranks) -> list[str]:
    """Divides the language models of a model. Every rank must call it.

    Returns:
        The names of their parameters in the model.

    Raises:
        UserError: the model has no language model.
    """
    reader = None if model.content is None else model.content.reader
    found = [part for part in (model.encoder, reader) if isinstance(part, LLM | ItemLLM)]
    if not found:
        raise UserError(
            "sharding.language_models: the model has no language model: set it to false"
        )
    # The group is not shared with DDP, whose collectives may come in another order on each rank.
    mesh = DeviceMesh.from_group(dist.new_group(), ranks.device.type)
    divided: set[int] = set()
    for part in found:
        for layer in _layers(part.model):
            fully_shard(layer, mesh=mesh)
        fully_shard(part, mesh=mesh)
        divided |= {id(parameter) for parameter in part.parameters()}
    return [name for name, value in model.named_parameters() if id(value) in divided]


def norm_over_ranks(gradients: list[Tensor]) -> Tensor:
    """Returns the norm of gradients of which some are divided. Every rank must call it."""
    whole = [grad for grad in gradients if not isinstance(grad, DTensor)]
    parts = [grad.to_local() for grad in gradients if isinstance(grad, DTensor)]
    square = torch.nn.utils.get_total_norm(parts).square()
    dist.all_reduce(square)
    norm: Tensor = (square + torch.nn.utils.get_total_norm(whole).square()).sqrt()
    return norm


def _layers(model: nn.Module) -> nn.ModuleList:
    """Returns the layers of a decoder: its longest list of modules."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=len)
