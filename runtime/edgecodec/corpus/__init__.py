"""Many files: folders, lists and shards, by several processes, going on where they stopped."""
