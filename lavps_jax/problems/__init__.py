"""y = A(x) + noise: noise models, likelihood, simulation."""
