"""Merges: turn the outputs of a job's last stage into its results."""
