"""Processes that are forked from a server which has imported the apps once: importing them takes seconds."""

import multiprocessing

from torchrec_priors.apps.__main__ import apps

METHOD = "forkserver"
FORKS = multiprocessing.get_context(METHOD)
FORKS.set_forkserver_preload([f"torchrec_priors.apps.{name}" for name in apps()])
