"""What a run will need, before it runs: memory, time and money on a machine that is described."""
