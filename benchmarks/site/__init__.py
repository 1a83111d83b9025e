"""The documentation site: hooks of MkDocs collect its pages, write its tables and draw its plots."""
