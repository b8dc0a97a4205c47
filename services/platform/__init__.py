"""AWS, Postgres and the process: the foundation of every service."""
