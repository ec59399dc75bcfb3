"""What docs/results.md holds: experiments on the demo model, and the tables made of them."""
