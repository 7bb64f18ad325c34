"""Human priors: what groups there are, which interactions belong to a group, which items a group
may retrieve.
"""
