"""What a finished run tells: flatness, stability of rankings."""
