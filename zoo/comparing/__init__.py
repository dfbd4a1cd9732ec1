"""Two models beside each other: parameters, or layers against the reference library."""
