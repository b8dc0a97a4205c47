"""Alerts: what rules find of jobs, schedules, triggers and pools, and how it is told."""
