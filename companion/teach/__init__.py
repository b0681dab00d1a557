"""Assignments: built from a master, collected, marked without trusting them, and given back.

``python -m companion.teach`` has the commands. A submission's code runs in a process of its own
that can reach neither the tests nor the network nor anything that lasts; the tests run outside and
ask it for plain data. The page *Teaching with this course* says how to use it, and
``book/assignments/README.md`` how to write an assignment.
"""
