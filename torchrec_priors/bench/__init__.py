"""`bench`: our path, the plain dense reference and the machine's limit, compared in one run."""
