"""HTML pages about runs and graphs: the report of runs, and the drawing of a graph.

Here are the reading of records, the parts of a page (charts, tables, the timeline, the drawing), the templates, the
styles and the scripts. Commands that write pages are in `graph/cli/commands/`. Sections about what only a node library
knows come from `NodeLibrary.report_sections`.
"""
