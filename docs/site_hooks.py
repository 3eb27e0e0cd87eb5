"""What the site changes in the pages."""

import re


def on_page_markdown(markdown, page, config, files):
    """Leaves out links to files of the repository that are no part of the site; their text stays."""
    above = "../" * (1 + page.file.src_uri.count("/"))  # from the page's folder
    return re.sub(rf"\[([^\]]+)\]\({re.escape(above)}[^)]+\)", r"\1", markdown)
