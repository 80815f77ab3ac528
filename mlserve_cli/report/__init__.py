"""Reports as one HTML file: text, tables and plots (SVG) that need no network and no script."""
