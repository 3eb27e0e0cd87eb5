"""What a run leaves behind: predictions, figures, pictures and a report."""
