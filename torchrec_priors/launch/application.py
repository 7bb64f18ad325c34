"""An app of this package as a TorchX application, for the TorchX components in `components/`."""

from collections.abc import Mapping
from typing import Any

import torchx.specs as specs

from torchrec_priors.launch.builtins import dist
from torchrec_priors.launch.command_line import arguments


def application(
    app: str, options: Mapping[str, object], *positional: str, j: str, **resources: Any
) -> specs.AppDef:
    """`python -m torchrec_priors.apps.<app>` on the ranks that `j` says.

    Args:
        app: name of the app.
        options: options of the app, as `arguments` takes them.
        positional: positional arguments of the app.
        j: [min nodes:]nodes x processes a node, as `dist.ddp` takes it.
        resources: further arguments of `dist.ddp`.
    """
    given = arguments(options)
    return dist.ddp(
        *given, *positional, m=f"torchrec_priors.apps.{app}", name=f"/{app}", j=j, **resources
    )
