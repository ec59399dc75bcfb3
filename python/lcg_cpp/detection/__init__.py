"""Known slips and switches spliced into texts, and how a gate answers to them. `detect` puts it together."""
