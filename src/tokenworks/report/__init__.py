"""One self-contained HTML file of a result: charts, tables, and the topology."""
