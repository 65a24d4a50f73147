"""Speed and quality of this code over its commits, measured by asv (README.md says how)."""

import torch

torch.set_num_threads(1)
