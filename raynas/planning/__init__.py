"""What a time budget is spent on: what is not said follows from data, hardware and budget."""
