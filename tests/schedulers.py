"""What a TorchX scheduler would be asked for: the request of a dry run, said the same way for all schedulers."""

import importlib.util
import re
import shlex
from dataclasses import dataclass, field
from typing import Any

NEEDS = {
    "kubernetes": "kubernetes",
    "ray": "ray",
}  # scheduler -> library; the others need none for a dry run
QUEUE = {
    "aws_batch": "queue",
    "kubernetes": "queue",
    "slurm": "partition",
}  # scheduler -> its option of that meaning


@dataclass
class Node:
    """One node of a job; what a scheduler has no field for is None.

    Attributes:
        command: the words that torchrun is called with, first of them `torchrun`.
        host: the variable that names the first node, of several.
        mounts: (path of the host or name of the volume, path in the container).
    """

    command: list[str]
    env: dict[str, str]
    cpu: int | None = None
    gpu: int | None = None
    memory_mb: int | None = None
    image: str | None = None
    mounts: list[tuple[str, str]] | None = None
    retries: int | None = None
    queue: str | None = None
    host: str | None = field(init=False)

    def __post_init__(self) -> None:
        found = re.search(
            r"--rdzv_endpoint \\?\$\{(\w+):=localhost\}:29500 ", " ".join(self.command)
        )
        self.host = found and found[1]


def lacks(scheduler: str) -> str | None:
    """Why a scheduler cannot be asked here."""
    library = NEEDS.get(scheduler)
    if library and importlib.util.find_spec(library) is None:
        return f"{library} is not installed: pip install 'torchrec-priors[{scheduler}]'"
    return None


def retries(scheduler: str, wanted: int) -> int:
    """How often a job is started again where a component says `wanted`: Batch counts the first time, too."""
    return max(wanted - 1, 0) if scheduler == "aws_batch" else wanted


def nodes_asked_for(scheduler: str, request: Any) -> list[Node]:
    """The nodes that the request of a dry run is for."""
    return _READERS[scheduler](request)


def _torchrun(command: list[str]) -> list[str]:
    shell, flag, line = command
    assert (shell, flag) == ("bash", "-c")
    return shlex.split(line)


def _local_cwd(request: Any) -> list[Node]:
    (replicas,) = request.role_params.values()
    return [Node(_torchrun(one.args), one.env) for one in replicas]


def _slurm(request: Any) -> list[Node]:
    script = request.materialize().replace('"$SLURM_JOB_ID"', "JOB")
    batch = [shlex.split(line) for line in re.findall(r"^#SBATCH (--.*)$", script, re.MULTILINE)]
    calls = re.search(r"^srun (.*?)^exitcode", script, re.MULTILINE | re.DOTALL)[1].replace(
        ":\\\n", "\n"
    )
    assert script.count("#SBATCH hetjob\n") == len(batch) - 1
    nodes = []
    for options, call in zip(batch, calls.strip().splitlines(), strict=True):
        asked = dict(option[2:].split("=", 1) for option in options if "=" in option)
        assert "--requeue" in options
        assert asked["ntasks-per-node"] == "1"
        words = shlex.split(call)
        (exported,) = (word for word in words if word.startswith("--export="))
        env = dict(pair.split("=", 1) for pair in exported.removeprefix("--export=ALL,").split(","))
        nodes.append(
            Node(
                _torchrun(words[-3:]), env, int(asked["cpus-per-task"]), int(asked.get("gpus-per-task", 0)),
                int(asked["mem"]), retries=int(re.search(r"TORCHX_MAX_RETRIES=(\d+)", script)[1]),
                queue=asked.get("partition"),
            )
        )  # fmt: skip
    return nodes


def _lsf(request: Any) -> list[Node]:
    nodes = []
    for job in request.materialize().split("\nbsub ")[1:]:
        options, line, _ = job.split("\n", 2)
        words = shlex.split(line)
        assert words[:2] == ["docker", "run"]
        start = words.index("--rm")
        env = dict(words[i + 1].split("=", 1) for i in range(start) if words[i] == "-e")
        mounts = [tuple(words[i + 1].split(":")[:2]) for i in range(start) if words[i] == "-v"]
        gpus = re.search(r"-gpu \"num=(\d+):", options)
        assert ("--gpus" in words[:start]) == bool(gpus)
        memory = int(re.search(r"--memory=(\d+)", line)[1]) >> 20
        cpu = int(re.search(r" -n (\d+) ", options)[1])
        command = _torchrun([words[words.index("--entrypoint") + 1], *words[start + 2 :]])
        nodes.append(
            Node(command, env, cpu, int(gpus[1]) if gpus else 0, memory, words[start + 1], mounts)
        )
    return nodes


def _aws_batch(request: Any) -> list[Node]:
    properties = request.job_def["nodeProperties"]
    (group,) = properties["nodeRangeProperties"]
    container = group["container"]
    assert group["targetNodes"] == f"0:{properties['numNodes'] - 1}"
    asked = {one["type"]: int(one["value"]) for one in container["resourceRequirements"]}
    source = {
        volume["name"]: volume["host"]["sourcePath"]
        if "host" in volume
        else volume["efsVolumeConfiguration"]["fileSystemId"]
        for volume in container["volumes"]
    }
    node = Node(
        _torchrun(container["command"]),
        {one["name"]: one["value"] for one in container["environment"]},
        asked["VCPU"], asked.get("GPU", 0), asked["MEMORY"], container["image"],
        [(source[one["sourceVolume"]], one["containerPath"]) for one in container["mountPoints"]],
        request.job_def["retryStrategy"]["attempts"] - 1, request.queue,
    )  # fmt: skip
    return [node] * properties["numNodes"]


def _local_docker(request: Any) -> list[Node]:
    nodes = []
    for container in request.containers:
        asked = container.kwargs
        gpus = sum(device["Count"] for device in asked.get("device_requests", []))
        mounts = [(mount["Source"], mount["Target"]) for mount in asked["mounts"]]
        retries = asked.get("restart_policy", {}).get("MaximumRetryCount", 0)
        memory = int(asked["mem_limit"].removesuffix("m"))
        nodes.append(
            Node(
                _torchrun(container.command), asked["environment"], asked["nano_cpus"] // 10**9, gpus, memory,
                container.image, mounts, retries,
            )
        )  # fmt: skip
    return nodes


def _kubernetes(request: Any) -> list[Node]:
    spec = request.resource["spec"]
    nodes = []
    for task in spec["tasks"]:
        assert task["replicas"] == task["minAvailable"] == 1
        (container,) = task["template"].spec.containers
        limits = container.resources.limits
        volumes = task["template"].spec.volumes
        source = {one.name: one.host_path.path for one in volumes if one.host_path}
        source |= {
            one.name: one.persistent_volume_claim.claim_name
            for one in volumes
            if one.persistent_volume_claim
        }
        mounts = [
            (source[one.name], one.mount_path)
            for one in container.volume_mounts
            if one.name in source
        ]
        nodes.append(
            Node(
                _torchrun(container.command), {one.name: one.value for one in container.env},
                int(limits["cpu"].removesuffix("m")) // 1000, int(limits.get("nvidia.com/gpu", 0)),
                int(limits["memory"].removesuffix("M")), container.image, mounts, spec["maxRetry"],
                spec["queue"],
            )
        )  # fmt: skip
    return nodes


def _ray(request: Any) -> list[Node]:
    return [
        Node(_torchrun(one.command), one.env, one.num_cpus, one.num_gpus) for one in request.actors
    ]


_READERS = {
    "local_cwd": _local_cwd,
    "slurm": _slurm,
    "lsf": _lsf,
    "aws_batch": _aws_batch,
    "local_docker": _local_docker,
    "kubernetes": _kubernetes,
    "ray": _ray,
}
