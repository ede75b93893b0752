"""Trackers: mirrors of a run that may be slow, full or absent while training goes on. The run folder is the truth."""
