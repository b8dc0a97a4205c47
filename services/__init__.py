"""Piecework's server side: four services and the contract they share."""
