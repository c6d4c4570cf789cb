"""Parts of the benchmark scripts: what to run, running it, and what the numbers say."""
