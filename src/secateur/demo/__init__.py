"""What `python -m secateur` shows: a small trained network, its data, and one prune."""
