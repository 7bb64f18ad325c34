"""Runs commands of the installation that is first on PYTHONPATH, one for each line of standard input.

The first line of the answer says where that installation is.
"""

import json
import sys

from command_line import app

import torchrec_priors

if __name__ == "__main__":
    print(torchrec_priors.__file__, flush=True)
    for line in sys.stdin:
        name, arguments, folder = json.loads(line)
        done = app(name, *arguments, cwd=folder, check=False)
        print(json.dumps([done.returncode, done.stdout, done.stderr]), flush=True)
