"""The whole model: the lookup, the encoder, the prior heads, and the loss of a batch."""
