"""Networks that run with sparse kernels: captured, fused, laid out, and chosen by the clock."""
