"""What is measured on a GPU by `tools/gpu_report.py`, which needs torch and Triton alone."""
