"""Programs that reproduce the paper and measure speed; run from a checkout."""
