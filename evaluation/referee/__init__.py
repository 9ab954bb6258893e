"""The referee: whether tools were worth it, judged on the same items with and without them. docs/evaluation-referee.md has the
formulas.

`outcomes` arranges episodes of two settings item by item; `figures` and `med` compute, in NumPy alone; `variants` runs the
settings; `report` and `page` show them.
"""
