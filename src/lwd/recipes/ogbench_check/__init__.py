"""A check from outside: our algorithms on OGBench's own single-task benchmark, beside published figures."""
