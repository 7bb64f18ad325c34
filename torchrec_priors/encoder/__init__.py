"""Sequence encoders behind one protocol: jagged in, jagged out."""
