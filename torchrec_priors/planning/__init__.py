"""What a sharded table takes on other machines, as TorchRec's planner estimates it.

Numbers or a run's configuration become a `Request` (`read_request`). `planner.plan` asks the
planner about tables on the meta device, without a process group. `fits` looks for the smallest
change that makes a request fit, `sweep` plans several numbers of ranks and items, and `measure`
runs on this machine what was predicted for it.
"""
