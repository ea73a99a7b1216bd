"""Two machines: packets over RTP."""
