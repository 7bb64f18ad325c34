"""A synthetic marketplace log of any size, with planted interests. Imports no torch."""
