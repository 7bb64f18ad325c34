"""Memory and time of sharded tables on other machines, as TorchRec's planner estimates them.

`read_request` makes a `Request` from numbers or from a run's configuration. `planner.plan` asks the
planner about tables on the meta device, without a process group. `fits` searches for the smallest
change that makes a request fit. `sweep` plans several numbers of ranks and items. `measure` runs a
request on this machine and compares it with the prediction.
"""
