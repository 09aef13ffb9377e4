"""Grading free answers by a judge: what it is asked, who it is, what it said, and the files that hold it."""
