"""Jobs of very many images: their folder, the manifest that lists the images in shards, and the results, a Parquet file per shard."""
