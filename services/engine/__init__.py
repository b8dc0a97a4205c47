"""What a job is: its rules, and all SQL that changes its state."""
