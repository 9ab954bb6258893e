"""The trainer on verl: the only room that imports it."""
