"""What a training run will cost before a GPU is rented: tokens, FLOPs, memory, time."""
