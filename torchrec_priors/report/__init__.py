"""One static page with the results of runs; see `apps/report.py`."""
