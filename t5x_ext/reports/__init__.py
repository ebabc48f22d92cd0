"""From a study's finished cells to tables, figures and one page."""
