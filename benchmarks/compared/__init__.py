"""What comparisons share: both ends of the load, alternating runs, medians beside bars."""
