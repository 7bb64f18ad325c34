"""Copies the state for a checkpoint, so that training can go on while the copy is written."""

import copy
from typing import Any

import torch
from torch import Tensor
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torch.distributed.checkpoint.staging import BlockingAsyncStager
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torchrec.distributed.shards_wrapper import LocalShardsWrapper

from torchrec_priors.training.checkpoint.pieces import Pieces


class Staging(BlockingAsyncStager):
    """Copies this rank's shards and dense parameters into the CPU's memory.

    The copy is freed after it has been written.
    """

    @torch.no_grad()
    def stage(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        staged: dict[str, Any] = staged_copy(state_dict)
        return staged


def staged_copy(value: Any) -> Any:
    """Returns the same nested dictionaries and lists, with copies of the tensors.

    A sharded tensor becomes `Pieces` with copies of this rank's shards.
    """
    if isinstance(value, dict):
        return {key: staged_copy(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(staged_copy(inner) for inner in value)

    # This rank has only some shards of a sharded tensor.
    if isinstance(value, DTensor):
        local: Any = value.to_local()
        if not isinstance(local, LocalShardsWrapper):
            return _part_of_language_model(value, local)
        shards = [_copy(shard) for shard in local.local_shards()]
        return Pieces(shards, local.local_offsets(), value.shape)

    # TorchRec uses this older kind of sharded tensor for the buffers of managed tables.
    if isinstance(value, ShardedTensor):
        held = value.local_shards()
        offsets = [shard.metadata.shard_offsets for shard in held]
        return Pieces([_copy(shard.tensor) for shard in held], offsets, value.size())

    return _copy(value) if isinstance(value, Tensor) else copy.deepcopy(value)


def _part_of_language_model(value: DTensor, local: Tensor) -> Pieces:
    """Returns this rank's part of a parameter that FSDP2 has divided.

    Args:
        value: the parameter.
        local: the part, which may be empty.
    """
    _, offset = compute_local_shape_and_global_offset(
        value.shape, value.device_mesh, value.placements
    )
    if not local.numel():
        return Pieces([], [], value.shape)
    return Pieces([_copy(local)], [offset], value.shape)


def _copy(tensor: Tensor) -> Tensor:
    copied = torch.empty_like(tensor, device="cpu", memory_format=torch.contiguous_format)
    return copied.copy_(tensor)
