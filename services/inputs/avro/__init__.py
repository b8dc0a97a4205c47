"""Avro object container files, cut at their sync markers."""
