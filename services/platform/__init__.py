"""AWS, Postgres and the process: what every service stands on, whatever it does."""
