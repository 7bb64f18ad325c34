"""Command-line apps, one file each.

Run one with `python -m torchrec_priors.apps.<app>` or `torchrec-priors <app>`.
"""
