"""Tools of maintainers: speeds, comparisons with other predictors, and the accuracy page."""
