"""What the site changes in the pages."""

import re


def on_page_markdown(markdown, page, config, files):
    """Leaves out links to files of the repository that are no part of the site; their text stays."""
    return re.sub(r"\[([^\]]+)\]\(\.\./[^)]+\)", r"\1", markdown)
