"""Objects that a manifest or an S3 Inventory lists."""
