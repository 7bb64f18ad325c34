"""TorchX component: memory, time and cost of sharded tables on machines that one does not have.

torchx run -s local_cwd components/plan.py:plan --items 1B --dim 256 --ranks 64
"""

from typing import Dict, List, Optional

import torchx
import torchx.specs as specs

from torchrec_priors.launch.application import application


def plan(
    *overrides: str,
    items: Optional[str] = None,
    dim: Optional[int] = None,
    ranks: str = "8",
    device: str = "h200",
    memory: Optional[str] = None,
    host_memory: Optional[str] = None,
    memory_bandwidth: Optional[str] = None,
    host_bandwidth: Optional[str] = None,
    host_link_bandwidth: Optional[str] = None,
    node_bandwidth: Optional[str] = None,
    network_bandwidth: Optional[str] = None,
    ranks_per_node: Optional[int] = None,
    batch: Optional[int] = None,
    context: Optional[int] = None,
    negatives: Optional[int] = None,
    dense: Optional[str] = None,
    layers: Optional[int] = None,
    accumulate: Optional[int] = None,
    recompute: bool = False,
    precision: Optional[str] = None,
    queries: Optional[int] = None,
    optimizer: str = "rowwise-adagrad",
    rows: str = "fp32",
    sharding: Optional[str] = None,
    kernel: Optional[str] = None,
    reserve: float = 0.15,
    config: Optional[str] = None,
    data: Optional[str] = None,
    trust: bool = False,
    plot: Optional[str] = None,
    measure: bool = False,
    repeats: int = 10,
    json: bool = False,
    image: str = torchx.IMAGE,
    h: Optional[str] = None,
    cpu: int = 1,
    gpu: int = 0,
    memMB: int = 4096,
    max_retries: int = 0,
    env: Optional[Dict[str, str]] = None,
    mounts: Optional[List[str]] = None,
) -> specs.AppDef:
    """Asks TorchRec's planner what a rank holds and how long a step takes.

    Args:
        overrides: with config: changes to it, as in model.dim=64
        items: rows of the item table; several, with commas, for a sweep
        dim: width of the rows
        ranks: devices; several, with commas, for a sweep
        device: h200, h100, a100, cuda or cpu
        memory: of a device
        host_memory: of the host, a rank's share
        memory_bandwidth: of a device's memory, a second
        host_bandwidth: of the host's memory, a second
        host_link_bandwidth: between a device and its host, a second
        node_bandwidth: between ranks of a node, a second
        network_bandwidth: between nodes, a second
        ranks_per_node: ranks of a node
        batch: windows of a rank and step
        context: items of a window
        negatives: of a step
        dense: parameters of the dense model
        layers: of an HSTU encoder, to count activations
        accumulate: with layers: parts of a rank's windows
        recompute: with layers: layers are computed again in backward
        precision: with layers: of the encoder, fp32 or bf16
        queries: with layers: paths of a prior tree that a position has positives of
        optimizer: of the tables
        rows: fp32 or fp16
        sharding: row_wise, table_wise, column_wise or auto
        kernel: fused, fused_uvm, fused_uvm_caching or auto
        reserve: share of a device's memory for what is not estimated
        config: TOML file of a run's configuration
        data: with config: the prepared data set
        trust: run files of own code that the run was trained with, though you have not trained with them here
        plot: also draw the sweep there
        measure: also do it here, on CPUs
        repeats: steps that are measured
        json: print one JSON object
        image: image to run in, where the scheduler uses one
        h: a registered named resource
        cpu: cores
        gpu: GPUs
        memMB: memory in MB
        max_retries: how often the scheduler may start it again
        env: environment variables, as A=1,B=2
        mounts: of the container, as type=volume,src=CLAIM,dst=/shared
    """
    options = dict(
        items=items,
        dim=dim,
        ranks=ranks,
        device=device,
        memory=memory,
        host_memory=host_memory,
        memory_bandwidth=memory_bandwidth,
        host_bandwidth=host_bandwidth,
        host_link_bandwidth=host_link_bandwidth,
        node_bandwidth=node_bandwidth,
        network_bandwidth=network_bandwidth,
        ranks_per_node=ranks_per_node,
        batch=batch,
        context=context,
        negatives=negatives,
        dense=dense,
        layers=layers,
        accumulate=accumulate,
        recompute=recompute,
        precision=precision,
        queries=queries,
        optimizer=optimizer,
        rows=rows,
        sharding=sharding,
        kernel=kernel,
        reserve=reserve,
        config=config,
        data=data,
        trust=trust,
        plot=plot,
        measure=measure,
        repeats=repeats,
        json=json,
    )
    return application(
        "plan",
        options,
        *overrides,
        j="1x1",
        image=image,
        h=h,
        cpu=cpu,
        gpu=gpu,
        memMB=memMB,
        max_retries=max_retries,
        env=env,
        mounts=mounts,
    )
