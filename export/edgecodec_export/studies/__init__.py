"""Studies by name: TOML files for `edgecodec study`."""
