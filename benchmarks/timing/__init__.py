"""Parts of the speed benchmark: worker processes, what they time, and what the numbers say."""
