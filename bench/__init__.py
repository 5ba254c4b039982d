"""What makes the numbers in the README: `python -m bench`, or `make bench`.

Everything is measured in one run on one machine, against a bare drain of the same WAL in the same run,
since only such ratios mean something elsewhere. Nothing here is asserted: a slow machine is no defect.
"""
