"""Sequence encoders. All follow the protocol `Encoder`: jagged histories in, jagged states out."""
