"""The page of a report: templates, charts as inline SVG, one script; facts in, one HTML file out."""
