"""Row-wise Adagrad's state of a table that is cut into other columns than the checkpoint's: each part has the row's."""

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor import Shard as ShardedBy
from torchrec.distributed.shards_wrapper import LocalShardsWrapper

from torchrec_priors.ranks.process import join
from torchrec_priors.training.checkpoint.row_wise_state import in_saved_form

ROWS = 7
TABLE, STATE = "table.embeddings.item.weight", "item.momentum1"


def _sharded(pieces, offsets, size, dimension):
    local = LocalShardsWrapper(pieces, offsets)
    mesh = init_device_mesh("cpu", (1,))
    stride = (size[1], 1) if len(size) == 2 else (1,)
    return DTensor.from_local(
        local, mesh, [ShardedBy(dimension)], run_check=False, shape=size, stride=stride
    )


def _state(widths, sums_PR):
    """Of one rank that holds parts of the columns of a table, as TorchRec has it."""
    firsts = [sum(widths[:part]) for part in range(len(widths))]
    weights = [torch.zeros(ROWS, width) for width in widths]
    table = _sharded(weights, [(0, first) for first in firsts], torch.Size([ROWS, sum(widths)]), 1)
    parts = [sums_PR[part].clone() for part in range(len(widths))]
    offsets = [(part * ROWS,) for part in range(len(widths))]
    sums = _sharded(parts, offsets, torch.Size([len(widths) * ROWS]), 0)
    return {
        "model": {TABLE: table},
        "optimizers": {"state": {f"table.{TABLE}": {STATE: sums}}},
    }, parts


@pytest.mark.parametrize("there", [[12], [4, 4, 4], [8, 4], [4, 8]])
@pytest.mark.parametrize("here", [[12], [6, 6], [4, 4, 4], [8, 4]])
def test_any_cut_loads_into_any_other(there, here, tmp_path):
    sum_R = torch.rand(ROWS)
    sums_PR = sum_R.expand(len(there), ROWS)
    with join() as ranks:
        saved, _ = _state(there, sums_PR)
        dcp.save(saved, checkpoint_id=tmp_path, process_group=ranks.side)
        state, parts = _state(here, torch.full((len(here), ROWS), torch.nan))
        mine = state["optimizers"]["state"][f"table.{TABLE}"][STATE]
        with in_saved_form(state, dcp.FileSystemReader(tmp_path).read_metadata()):
            dcp.load(state, checkpoint_id=tmp_path, process_group=ranks.side)
        assert state["optimizers"]["state"][f"table.{TABLE}"][STATE] is mine
    assert torch.equal(torch.stack(parts), sum_R.expand(len(here), ROWS))
