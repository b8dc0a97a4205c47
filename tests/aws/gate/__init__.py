"""AWS's access control in front of an emulator that has none: each service may do what its own policies allow."""
