"""Benchmarks of Piecework, and their recorded results."""
