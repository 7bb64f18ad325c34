"""`bench`: compares our path with a plain dense reference and with the limits of the machine."""
