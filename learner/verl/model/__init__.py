"""One rank's model: packed attention, the output layer, and verl's engine with both in place."""
