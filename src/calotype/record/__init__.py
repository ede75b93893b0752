"""The run folder: what a run was made of, written down before its first step, and what it did."""
