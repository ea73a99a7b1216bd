"""Data only: one folder a bundle, read by the runtime through `importlib.resources`."""
