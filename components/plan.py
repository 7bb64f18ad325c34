"""TorchX component of the app `plan`, written by `make components`: do not edit.

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
    share_of_peak: float = 0.4,
    text_tokens: Optional[int] = None,
    config: Optional[str] = None,
    data: Optional[str] = None,
    trust: bool = False,
    plot: Optional[str] = None,
    measure: bool = False,
    repeats: int = 10,
    threads: int = 1,
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
    """Asks TorchRec's planner how to shard a table, without creating the table.

    It prints how the table is sharded, the memory that a rank needs, and the duration of a step.

    The scheduler starts it as one process.

    Args:
        overrides: With --config: changes to it, such as model.dim=64.
        items: Rows of the item table, such as 1255665, 1.26M or 10B. Several values, separated by
            commas, give a sweep.
        dim: Width of the rows.
        ranks: Number of devices, over all nodes. Several values, separated by commas, give a sweep.
        device: h200 (141 GB at 4.8 TB/s), h100 (80 GB at 3.35 TB/s), a100 (80 GB at 2.04 TB/s),
            each with its DGX: 8 per node, NVLink of 450, 450 and 300 GB/s, network of 50, 50 and 25
            GB/s per GPU, 256 GB of host memory per GPU; cuda (TorchRec's defaults: 32 GiB); cpu
            (assumed: 128 GB at 51 GB/s per rank, 2 per node).
        memory: Memory of a device, such as 141GB or 80GiB. [as published]
        host_memory: Memory of the host for each GPU. [as published]
        memory_bandwidth: Bytes per second of a device's memory, such as 4.8TB.
        host_bandwidth: Bytes per second of the host's memory for each GPU.
        host_link_bandwidth: Bytes per second between a GPU and its host, one way.
        node_bandwidth: Bytes per second from a rank to other ranks of its node, one way.
        network_bandwidth: Bytes per second from a rank to other nodes, one way.
        ranks_per_node: Number of ranks on each node. [8 GPUs, 2 CPUs]
        batch: Number of windows of a rank in a step. [128]
        context: Number of items in a window, including those that are predicted. [200]
        negatives: Number of negatives in a step, over all item sets and ranks. [8192]
        dense: Parameters of the dense model, such as 7.5M. [none]
        layers: Number of layers of an HSTU encoder. [activations are not counted]
        accumulate: With --layers: number of parts that a rank's windows are divided into. [1]
        recompute: With --layers: compute layers again in backward.
        precision: With --layers: precision of the encoder, fp32 or bf16. [fp32]
        queries: With --layers: number of paths of the prior tree in which a position has positives.
            [1]
        optimizer: Optimizer of the tables: rowwise-adagrad, sgd, adagrad or adam.
        rows: Precision of the rows: fp32 or fp16.
        sharding: row_wise, table_wise, column_wise, or auto: the planner's choice. [row_wise]
        kernel: fused, fused_uvm, fused_uvm_caching (rows in the host's memory), or auto. [fused]
        reserve: Share of a device's memory for uses that are not counted: CUDA, the allocator,
            copies.
        share_of_peak: With --config: share of a device's peak of operations that language models
            reach.
        text_tokens: With --config and an item LLM: average number of tokens of an item's text.
            [that of --data, or 64]
        config: TOML file of a run's configuration, or the name of one that comes with the project,
            instead of --dim, --batch, --context, ...
        data: With --config: the prepared data set.
        trust: Run the files of custom code that the run was trained with, even if you have not
            trained with them here.
        plot: Also draw the sweep into this file: .png, .svg or .pdf.
        measure: With --device cpu: also run the step on this machine, and print predicted and
            measured values.
        repeats: With --measure: number of steps; the fastest counts.
        threads: With --measure: the most threads with which each process computes.
        json: Print one JSON object instead of the table.
        image: Image to run in, if the scheduler uses one.
        h: A registered named resource.
        cpu: Cores.
        gpu: GPUs.
        memMB: Memory, in MB.
        max_retries: Number of times that the scheduler may start it again.
        env: Environment variables, as A=1,B=2.
        mounts: Mounts of the container, as type=volume,src=CLAIM,dst=/shared.
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
        share_of_peak=share_of_peak,
        text_tokens=text_tokens,
        config=config,
        data=data,
        trust=trust,
        plot=plot,
        measure=measure,
        repeats=repeats,
        threads=threads,
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
