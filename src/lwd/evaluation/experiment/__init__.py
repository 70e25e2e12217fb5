"""The results of the experiment: records of its cells, claims, tables, figures and the page."""
