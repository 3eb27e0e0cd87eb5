"""Checkpoint formats: one file for each outside format, the tables they share, and the reader of tensor files."""
