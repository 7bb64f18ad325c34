"""What a sharded table takes on machines that one does not have: TorchRec's planner, its memory and its time.

Numbers or a run's configuration become a `Request`; `plan` asks the planner, on tables of the meta device and without
a process group; `fits` looks for the smallest change that makes a request fit; `sweep` goes over ranks and items;
`measure` does on this machine what was predicted for it.
"""
