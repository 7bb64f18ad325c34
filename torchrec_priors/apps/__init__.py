"""The command-line apps, with one file for each app.

Run an app with `python -m torchrec_priors.apps.<app>` or `torchrec-priors <app>`.

Importing this folder is what all ways to start an app have in common, and what happens before torch
is imported. So the way in which PyTorch's threads wait is chosen here.
"""

from torchrec_priors.common.waiting import sleep_soon

sleep_soon()
