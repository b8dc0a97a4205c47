"""What a job may read: a folder for each format, and how its parts are planned, fetched and read."""
