"""What the TorchX components in `components/` share: an app of this package as a TorchX application."""

from collections.abc import Mapping
from typing import Any

import torchx.specs as specs

from torchrec_priors.launch.builtins import dist
from torchrec_priors.launch.command_line import arguments


def application(
    app: str, options: Mapping[str, object], *positional: str, j: str, **resources: Any
) -> specs.AppDef:
    """`python -m torchrec_priors.apps.<app>` on the ranks that `j` asks for.

    Args:
        app: name of the app.
        options: its options, as `arguments` takes them.
        positional: its positional arguments.
        j: [min nodes:]nodes x processes a node, as `dist.ddp` takes it.
        resources: further arguments of `dist.ddp`.
    """
    given = arguments(options)
    return dist.ddp(
        *given, *positional, m=f"torchrec_priors.apps.{app}", name=f"/{app}", j=j, **resources
    )
