"""The command line: it parses, and leaves the work to the other wings."""
