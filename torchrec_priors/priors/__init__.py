"""Human priors: their groups, the interactions in each group, and the items it may retrieve."""
