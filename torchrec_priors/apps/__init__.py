"""Command-line apps, one file each: `python -m torchrec_priors.apps.<app>`, or `torchrec-priors <app>`."""
