"""Kinds of inversion problem, one file each: how a network and images become problem, start and truth."""
