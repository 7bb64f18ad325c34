"""The command-line apps, with one file for each app.

Run an app with `python -m torchrec_priors.apps.<app>` or `torchrec-priors <app>`.
"""
