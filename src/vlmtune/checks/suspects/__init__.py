"""Training rows whose label is probably wrong: `ranking` finds them in the log of a training, `page` shows them."""
