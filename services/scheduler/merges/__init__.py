"""Merges: what becomes of the outputs of a job's last stage."""
