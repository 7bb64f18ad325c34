"""Describes an app of this package as a TorchX application; `components/` calls this."""

from collections.abc import Mapping
from typing import Any

import torchx.specs as specs

from torchrec_priors.launch.builtins import dist
from torchrec_priors.launch.command_line import arguments


def application(
    app: str, options: Mapping[str, object], *positional: str, j: str, **resources: Any
) -> specs.AppDef:
    """Returns an application that runs `python -m torchrec_priors.apps.<app>` on several ranks.

    Args:
        app: the name of the app.
        options: the app's options by name, as `arguments` takes them.
        positional: the app's positional arguments.
        j: the number of nodes and of processes on each node, "[min nodes:]nodes x processes".
        resources: further arguments of `dist.ddp`.
    """
    given = arguments(options)
    return dist.ddp(
        *given, *positional, m=f"torchrec_priors.apps.{app}", name=f"/{app}", j=j, **resources
    )
