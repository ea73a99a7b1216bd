"""Audio files and .edgc files: reading, writing, and what turns the one into the other."""
