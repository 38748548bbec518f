"""Real videos -> shards: video decodes, pose finds the person, crop frames it, folder combines these."""
