"""What is installed, under which licences, and whether it is known to be vulnerable: `make audit`."""
