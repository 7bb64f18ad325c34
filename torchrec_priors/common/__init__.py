"""What every other package stands on: files, limits, the machine, errors of the operating system."""
