"""`bench`: our path, the plain dense reference and the machine's limit, side by side in one run."""
