"""Lines, CSV, TSV, JSON lines and records of one length."""
