"""The claims of the scaleX40 article: what each one says, what we compute, and a verdict with its conditions."""
