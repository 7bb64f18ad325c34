"""What users did since the data set was prepared: stores of their newest events."""
