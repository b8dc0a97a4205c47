"""The history of the schema: one file a revision in versions/, each built of what operations.py offers."""
