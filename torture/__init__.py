"""The campaign against the suite itself: planted damage, malformed input, kills.

    python -m torture                 every case; the table goes to torture/table.md
    python -m torture numbers cards   some families, printed only

A family is a module with ``cases()``. What a case does is refused with one clear line, or comes out
right; a traceback, a hang, lost results and above all a wrong answer are faults of the suite.
`tests/test_torture.py` runs the cases that are not ``slow``.
"""
