"""Looks at every page of the built site in a headless browser, at desktop and phone width, light and dark, and searches it.

    pip install selenium                                  # and Chromium with its driver
    mkdocs build --strict -d site && python tests/site_look.py site looks

Prints what is wrong, and ends with 1 if anything is: a page that scrolls sideways, a table that is cut off, a picture that is missing or
enlarged, text of low contrast, an error of a script, a search without a result.
"""

import argparse
import base64
import functools
import http.server
import pathlib
import sys
import threading
import urllib.parse

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

DOCS = pathlib.Path(__file__).parents[1] / "docs"
FAULTS = pathlib.Path(__file__).with_suffix(".js").read_text("utf-8")
STILL = "document.head.append(Object.assign(document.createElement('style'), {textContent: '* { transition: none !important }'}))"
SHOWN = "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()))"
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("site", type=pathlib.Path)
parser.add_argument("pictures", type=pathlib.Path, help="folder for a picture of each page")
options = parser.parse_args()
options.pictures.mkdir(parents=True, exist_ok=True)

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(http.server.SimpleHTTPRequestHandler, directory=options.site))
server.RequestHandlerClass.func.log_message = lambda *arguments: None
threading.Thread(target=server.serve_forever, daemon=True).start()
root, wrong = f"http://127.0.0.1:{server.server_port}/", 0
chrome = webdriver.ChromeOptions()
for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
    chrome.add_argument(argument)
chrome.set_capability("goog:loggingPrefs", {"browser": "SEVERE"})
with webdriver.Chrome(options=chrome) as driver:
    for page in sorted(str(path.relative_to(options.site).parent) for path in options.site.rglob("index.html")):
        if page.startswith("ko/") and not (DOCS / f"{page[3:]}.ko.md").exists():
            continue  # it is the English page
        driver.get(root + page)
        driver.execute_script(STILL)
        faults = []
        for width in (1280, 390):
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            for scheme in ("default", "slate"):
                driver.execute_script(f"document.body.setAttribute('data-md-color-scheme', '{scheme}')")
                driver.execute_async_script(SHOWN)
                faults += [f"{page} ({width}, {scheme}): {fault}" for fault in driver.execute_script(FAULTS)]
                picture = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})["data"]
                (options.pictures / f"{page.replace('/', '_')}-{width}-{scheme}.png").write_bytes(base64.b64decode(picture))
        faults += [f"{page}: {entry['message']}" for entry in driver.get_log("browser") if "sitemap.xml" not in entry["message"]]
        print("\n".join(faults) or f"{page}: nothing", flush=True)
        wrong += len(faults)
    for words in ("mixed precision", "resume", "num_classes"):
        driver.get(f"{root}?q={urllib.parse.quote(words)}")
        links = WebDriverWait(driver, 30).until(lambda driver: driver.find_elements(By.CSS_SELECTOR, "a.md-search-result__link"))
        print(f"{words}: {len(links)} pages, first {links[0].get_attribute('href')}")
sys.exit(1 if wrong else 0)
