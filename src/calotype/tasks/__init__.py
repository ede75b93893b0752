"""Tasks: what a network is trained for, measured by and used for."""
