"""The documentation site: hooks of MkDocs that collect its pages, write its tables from rows, and draw its plots."""
