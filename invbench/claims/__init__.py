"""Claims: what a paper (or we ourselves) said, what the results say, and the verdict.

A claim compares one number of the results with a bound, with another number of the results, or with the
number that a paper printed. It is stated in the study, so that a claim that fails stays visible.
"""

from invbench.claims.statement import Claim, check_claims, of_study
from invbench.claims.verdict import Verdict, evaluate

__all__ = ["Claim", "Verdict", "check_claims", "evaluate", "of_study"]
