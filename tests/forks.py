"""Processes that are forked from a server which has imported the apps once: importing them takes seconds."""

import multiprocessing

from ports import free_port

from torchrec_priors.apps.__main__ import apps

METHOD = "forkserver"
FORKS = multiprocessing.get_context(METHOD)
# The apps import these only when they run.
HEAVY = [
    "torchrec_priors.api.evaluate",
    "torchrec_priors.api.run",
    "torchrec_priors.api.train",
    "torchrec_priors.apps.recommended",
    "torchrec_priors.planning.measure",
    "torchrec_priors.planning.sweep",
    "torchrec_priors.publishing.canary",
    "torchrec_priors.report.page",
    "torchrec_priors.serving.graph",
]
FORKS.set_forkserver_preload([*HEAVY, *(f"torchrec_priors.apps.{name}" for name in apps())])


def meeting_port() -> str:
    """Where ranks can meet."""
    return str(free_port())
