"""The inputs of jobs: a folder for each format, with code to plan, fetch and read its parts."""
