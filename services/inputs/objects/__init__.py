"""The objects under a prefix."""
