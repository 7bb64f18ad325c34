"""The base of every other package: files, limits, the machine, errors of the operating system."""
