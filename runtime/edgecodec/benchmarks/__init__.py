"""What a codec costs on this machine."""
