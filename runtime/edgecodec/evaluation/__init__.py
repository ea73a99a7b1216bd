"""What a codec sounds like, in numbers and pictures (extra `eval`)."""
