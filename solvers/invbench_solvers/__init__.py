"""The solvers that come with invbench: one method a file, found by the registry without any list."""
