"""In-group negatives from the rows a rank owns."""
