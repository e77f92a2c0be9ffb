"""Systems of the paper's Table 1, re-implemented, and common networks: what the method is compared with."""
