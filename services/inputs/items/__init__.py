"""An explicit list of values."""
