"""Predictions beside published figures: `cases` holds the figures, `predict` predicts them, `page` writes the page."""
