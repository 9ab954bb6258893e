"""The built-in world: questions generated from a seed, half of which need a tool, for four abilities.

Train, validation and test tasks come from disjoint seeds; their sums, differences and products have disjoint operands, and their
searches are about disjoint places.
"""

from envs.worlds.microworld.world import ABILITIES, Microworld, emblems, knowledge_base, make_task

__all__ = ["ABILITIES", "Microworld", "emblems", "knowledge_base", "make_task"]
