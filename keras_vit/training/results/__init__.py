"""What a run leaves: predictions, figures, pictures and a report."""
