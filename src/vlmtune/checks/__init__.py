"""Looking before leaping: checks of the machine, and later of data and plans."""
