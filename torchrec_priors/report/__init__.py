"""One static page of what runs came to; see `apps/report.py`."""
