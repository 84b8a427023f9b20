"""One sequence and one clip over several processes: tokens and rows are cut, and the parts exchange what they need.

`nodes/families` says what of a family's blocks is cut, and `nodes/models/ranks` has the processes.
"""
