"""What several modules need, private to the companion: arguments, seeds, stacked networks."""
