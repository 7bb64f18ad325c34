"""The ranks of a command: how they find one another, and what is said when one is missing."""
