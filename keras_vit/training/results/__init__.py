"""The results of a run: predictions, metrics, pictures and a report."""
