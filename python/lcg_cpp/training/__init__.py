"""Learning a gate: what a run reads, learns, measures, keeps and reports. `train` puts it together."""
