"""The page in a real browser: slow, and skipped without gradio, selenium and a headless Chromium."""

import contextlib
import http.client
import json
import shutil
import time
import urllib.request

import numpy as np
import pytest
from helpers import random_images, tiny

import keras_vit
from keras_vit import app
from keras_vit.features import write_features

CLASSES = ("ant", "bee", "cat", "dog", "eel")


def test_what_is_uploaded_is_checked_before_it_is_decoded(tmp_path):
    from PIL import Image

    (tmp_path / "corrupt.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    Image.new("RGB", (30_000, 1)).save(tmp_path / "narrow.png")
    Image.new("1", (9_000, 9_000)).save(tmp_path / "large.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), "uint8")).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:3000])
    for name, words in (
        ("corrupt", "not an image that can be read"),
        ("narrow", "too narrow: 30000 x 1"),
        ("large", "too large: 9000 x 9000"),
        ("cut", "is damaged"),
        ("absent", "not an image"),
    ):
        with pytest.raises(ValueError, match=words) as raised:
            app.read_upload(str(tmp_path / f"{name}.png"))
        assert str(tmp_path) not in str(raised.value)  # the server's paths are not the client's business
    assert app.read_upload(str(tmp_path / "whole.png")).size == (64, 64)


def test_what_the_page_asks_of_a_model():
    pytest.importorskip("matplotlib")
    show = app.Show(tiny(class_names=("ant", "ant", "cat", "dog", "eel")))
    images = random_images(show.model, batch=1)
    classes = show.classes(images)
    assert len(classes) == 5 and abs(sum(classes.values()) - 1) < 1e-5 and {"ant", "ant (1)"} < set(classes)
    assert show.methods == ["attention", "rollout", "relevance", "grad-cam"]
    assert show.patch_at(images, 0.99, 0.01) == (0, 2) and show.patch_at(images, 1.0, 1.0) == (1, 2)
    picture = show.attended(images, 1, 2)
    assert picture.shape == (448, 672, 3) and (picture[-1, -1] == 255).all() and not (picture[0, 0] == 255).all()
    assert [caption for _, caption in show.figures(None)][:2] == ["Architecture", "Filters of the patch embedding"]
    features = app.Show(tiny(include_top=False))
    assert features.methods == ["attention", "rollout"] and features.nearest(images) == []


@pytest.fixture
def browser():
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no Chromium with its driver")
    opened = []

    def start(width, height, phone=False):
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--window-size={width},{height}"):
            options.add_argument(argument)
        if phone:
            options.add_experimental_option("mobileEmulation", {"deviceMetrics": {"width": width, "height": height, "pixelRatio": 2.0}})
        opened.append(webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)))
        opened[-1].set_page_load_timeout(120)
        return opened[-1]

    yield start
    for each in opened:
        each.quit()


def wait(function, seconds=90):
    """Returns what `function` returns once it is true."""
    from selenium.common.exceptions import WebDriverException

    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(WebDriverException):  # an element that has just been replaced
            if found := function():
                return found
        assert time.monotonic() < end, "the page did not answer"
        time.sleep(0.3)


class Page:
    def __init__(self, driver, url):
        self.driver, self.url = driver, url

    def open(self):
        self.driver.get(self.url)
        wait(lambda: self.find("#upload input[type=file]"))

    def find(self, selector):
        found = self.driver.find_elements("css selector", selector)
        return found[0] if found else None

    def text(self, selector):
        return self.find(selector).text

    def upload(self, path):
        self.open()
        self.find("#upload input[type=file]").send_keys(str(path))


@pytest.mark.slow
def test_in_a_browser(tmp_path, browser):
    pytest.importorskip("gradio")
    from PIL import Image
    from selenium.webdriver import ActionChains

    model = tiny(input_shape=(64, 64, 3), patch_size=8, class_names=CLASSES)
    data = keras_vit.data.load("digits", batch_size=32, image_size=64, preprocessing=model.preprocessing)
    settings = {"data": "digits", "data_options": {"image_size": 64}}
    index = write_features(tmp_path / "index.npz", model, data, "test", settings=settings, verbose=False)
    page = app.serve(app.Show(model, index=index), "A tiny model", block=False)
    try:
        assert page.local_url.startswith("http://127.0.0.1:")
        _check_requests(page.local_url)
        image = tmp_path / "photograph.jpg"
        pixels = np.kron(np.random.default_rng(0).integers(0, 255, (10, 15, 3)), np.ones((20, 20, 1))).astype("uint8")
        Image.fromarray(pixels).save(image)
        Image.new("RGB", (30_000, 1)).save(tmp_path / "narrow.png")
        (tmp_path / "corrupt.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))

        shown = Page(browser(1200, 1000), page.local_url)
        shown.upload(image)
        wait(lambda: "%" in shown.text("#classes") and any(name in shown.text("#classes") for name in CLASSES))
        overlay = wait(lambda: shown.find("#overlay img"))
        wait(lambda: int(overlay.get_property("naturalWidth")) == 448)
        wait(lambda: len(shown.driver.find_elements("css selector", "#nearest img")) >= app.NEIGHBORS)
        before = overlay.get_attribute("src")
        shown.driver.save_screenshot(str(tmp_path / "answer.png"))
        # Its middle is the corner of four patches, so a pixel away from it is clicked on: in patch (4, 4), counted from 0.
        ActionChains(shown.driver).move_to_element_with_offset(overlay, 20, 20).click().perform()
        wait(lambda: "row 5, column 5" in shown.text("#hint"))
        wait(lambda: shown.find("#overlay img").get_attribute("src") != before)
        shown.driver.save_screenshot(str(tmp_path / "click.png"))
        shown.driver.find_elements("css selector", "button[role=tab]")[1].click()
        wait(lambda: len(shown.driver.find_elements("css selector", "#figures img")) >= 4)
        shown.driver.save_screenshot(str(tmp_path / "figures.png"))
        resources = shown.driver.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
        strange = [name for name in resources if not name.startswith((page.local_url, "data:", "blob:"))]
        assert resources and not strange, strange

        for name, words in (("corrupt.png", "not an image that can be read"), ("narrow.png", "too narrow: 30000 x 1")):
            shown.upload(tmp_path / name)
            wait(lambda words=words: words in shown.text("body"))
            shown.driver.save_screenshot(str(tmp_path / f"refused-{name}"))
        shown.upload(image)  # and it goes on
        wait(lambda: "%" in shown.text("#classes"))

        phone = Page(browser(375, 812, phone=True), page.local_url)
        phone.upload(image)
        wait(lambda: "%" in phone.text("#classes"))
        assert phone.driver.execute_script("return document.documentElement.scrollWidth") <= 375
        phone.driver.save_screenshot(str(tmp_path / "phone.png"))
    finally:
        page.close()


def _check_requests(url):
    """Asks for what the page never asks for: a file of the server's, and more than it takes."""
    host = url.removeprefix("http://").rstrip("/")
    job = {"data": [{"path": "/etc/hostname", "meta": {"_type": "gradio.FileData"}}, "rollout"], "fn_index": 0, "session_hash": "test"}
    request = urllib.request.Request(f"http://{host}/gradio_api/queue/join", json.dumps(job).encode(), {"Content-Type": "application/json"})
    with contextlib.suppress(urllib.error.HTTPError):  # refused at once, or in the answer
        urllib.request.urlopen(request, timeout=60).read()
        with urllib.request.urlopen(f"http://{host}/gradio_api/queue/data?session_hash=test", timeout=60) as answers:
            events = [json.loads(line.removeprefix(b"data: ")) for line in answers if line.startswith(b"data: ")]
        (completed,) = [event for event in events if event["msg"] == "process_completed"]
        assert completed["success"] is False
    connection = http.client.HTTPConnection(host, timeout=60)
    connection.request("POST", "/gradio_api/upload", headers={"Content-Length": str(100 * 2**20)})
    assert connection.getresponse().status == 413
    for path in ("/gradio_api/file=/etc/hostname", "/gradio_api/file=pyproject.toml"):
        with pytest.raises(urllib.error.HTTPError) as raised:
            urllib.request.urlopen(f"http://{host}{path}", timeout=60)
        assert raised.value.code in (403, 404)
