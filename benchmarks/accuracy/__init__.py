"""The accuracy page: figures from measured points (`collect`), and docs/accuracy.md from the figures (`render`)."""
