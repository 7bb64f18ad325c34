"""The peak of the tensors that a real training step has beside its lookups."""

import torch
from live_bytes import LiveBytes


def step_bytes(built, batch):
    """Computes the loss and the gradients of a batch: (bytes at the fullest moment, the started step).

    Gradients of parameters are there before, as they are from the second step on.
    """
    model = built.model.train()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not name.startswith("table."):
            parameter.grad = torch.zeros_like(parameter)
    looked_up = model.look_up(batch)
    with LiveBytes() as bytes_:
        started = model.begin(batch, look_up=lambda _: looked_up)
        for number in range(len(batch.parts)):
            model(started, number)[0].backward()
        if started.looked_up.described is not None:
            started.looked_up.described.backward()
        started.looked_up.backward()
    return bytes_.peak, started
