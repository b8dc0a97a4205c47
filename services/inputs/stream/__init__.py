"""Items that are appended while the job runs."""
