"""Parquet, cut between row groups."""
