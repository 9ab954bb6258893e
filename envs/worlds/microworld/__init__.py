"""The built-in world: questions generated from a seed, half of which need a tool, for four abilities.

Train, validation and test tasks come from disjoint seeds, sums, differences and products from disjoint operands, and what is
searched for from disjoint places.
"""

from envs.worlds.microworld.world import ABILITIES, Microworld, emblems, knowledge_base, make_task

__all__ = ["ABILITIES", "Microworld", "emblems", "knowledge_base", "make_task"]
