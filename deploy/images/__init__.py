"""The images of deploy/docker: built by the machine's container engine, or by one of our own on plain Debian."""
