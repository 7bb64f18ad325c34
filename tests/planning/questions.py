"""Requests that tests of the planner begin with."""

from torchrec_priors.planning.machines import machine_of
from torchrec_priors.planning.numbers import Numbers
from torchrec_priors.planning.read_request import from_numbers


def request_of(
    items,
    ranks,
    dim=256,
    device="h200",
    memory=None,
    ranks_per_node=None,
    numbers=None,
    sharding=None,
    kernel=None,
    **rest,
):
    """As the command line would make it."""
    machine = machine_of(device, {"memory": memory, "ranks_per_node": ranks_per_node})
    return from_numbers(
        Numbers(dim=dim, sharding=sharding, kernel=kernel, **(numbers or {})),
        items,
        ranks=ranks,
        machine=machine,
        **rest,
    )
