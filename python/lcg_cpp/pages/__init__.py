"""Reports and replies as HTML pages that need nothing else."""
