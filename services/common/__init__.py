"""The contract the four services share: tables, task lifecycle SQL, message, S3 layout, settings."""
