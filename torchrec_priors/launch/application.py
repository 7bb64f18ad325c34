"""What the TorchX components in `components/` share: an app of this package as a TorchX application."""

from collections.abc import Mapping
from typing import Any

import torchx.specs as specs

from torchrec_priors.launch.builtins import dist


def application(app: str, options: Mapping[str, object], *positional: str, j: str, **resources: Any) -> specs.AppDef:
    """`python -m torchrec_priors.apps.<app>` on the ranks that `j` asks for.

    Args:
        app: name of the app.
        options: its options; None and False leave one out, True is a flag.
        positional: its positional arguments.
        j: [min nodes:]nodes x processes a node, as `dist.ddp` takes it.
        resources: further arguments of `dist.ddp`.
    """
    arguments: list[str] = []
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            arguments.append(flag)
        elif value is not None and value is not False:
            arguments += [flag, str(value)]
    return dist.ddp(*arguments, *positional, m=f"torchrec_priors.apps.{app}", name=f"/{app}", j=j, **resources)
