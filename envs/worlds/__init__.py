"""Sources of tasks: the built-in world, Atlas, and the ids under which Gymnasium finds them."""
