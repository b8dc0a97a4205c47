"""An array job."""
