"""Piecework's server side: four services, and below them what they share: engine, inputs, platform, contract."""
