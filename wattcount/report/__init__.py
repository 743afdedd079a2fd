"""What people read of figures: their units and formats, what runs and loads are called, a result in a few lines."""
