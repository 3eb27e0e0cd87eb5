"""Load test of examples/serve.py on loopback: compares dynamic batching with single images, and counts requests lost at a shutdown.

    pip install litserve python-multipart
    keras-vit export MODEL exported --format onnx
    python benchmarks/serving.py exported --clients 16 --requests 512

Prints a Markdown table: throughput, median and 99th percentile of the time of a request. Then it stops the server by SIGTERM while all
clients wait for answers, and counts those that get none. Exits with 1 if a request was lost or an answer is wrong.
"""

import argparse
import concurrent.futures
import http.client
import io
import json
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
from PIL import Image

SERVER = pathlib.Path(__file__).resolve().parents[1] / "examples" / "serve.py"
BOUNDARY = "frontier"


def form(image):
    """Returns the body of a request: a form with an image file."""
    file = io.BytesIO()
    image.save(file, "PNG")
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="image.png"\r\nContent-Type: image/png\r\n\r\n'
    return head.encode() + file.getvalue() + f"\r\n--{BOUNDARY}--\r\n".encode()


class Server:
    """`examples/serve.py` in a process of its own."""

    def __init__(self, folder, batch_size):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, str(SERVER), str(folder), "--port", str(self.port), "--batch-size", str(batch_size)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def wait(self, seconds=120):
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            try:
                if self.request("GET", "/health")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.2)
        raise RuntimeError(f"The server did not start: {self.process.args}")

    def request(self, method, path, body=None):
        """Returns (status, body of the answer). A `ConnectionRefusedError` says that it was not sent."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"} if body else {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def classify(self, body):
        status, answer = self.request("POST", "/predict", body)
        if status != 200:
            raise RuntimeError(f"{status}: {answer[:200]}")
        return json.loads(answer)["classes"]

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def measure(server, bodies, clients, requests):
    """Returns (requests per second, seconds of each request, answers)."""

    def one(number):
        begun = time.perf_counter()
        answer = server.classify(bodies[number % len(bodies)])
        return time.perf_counter() - begun, answer

    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        list(pool.map(one, range(clients)))  # the first calls make room
        begun = time.perf_counter()
        found = list(pool.map(one, range(requests)))
        seconds = time.perf_counter() - begun
    return requests / seconds, *zip(*found)


def shutdown(server, bodies, clients):
    """Ends the server while clients wait. Returns (answered, refused before they were sent, lost)."""
    counts = {"answered": 0, "refused": 0, "lost": 0}
    lock, ending = threading.Lock(), threading.Event()

    def client(number):
        while not ending.is_set():
            try:
                server.classify(bodies[number % len(bodies)])
                kind = "answered"
            except ConnectionRefusedError:
                kind = "refused"
            except (OSError, http.client.HTTPException, RuntimeError):
                kind = "lost"
            with lock:
                counts[kind] += 1
            if kind != "answered":
                return

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    time.sleep(1.0)
    ending.set()  # no new requests: a server that ends resets connections that it has not accepted
    time.sleep(0.02)  # the last ones reach it
    server.stop()
    for thread in threads:
        thread.join()
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, help="folder that keras-vit export made")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=512)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 16])
    arguments = parser.parse_args()
    rows, columns = json.loads((arguments.folder / "model.json").read_text("utf-8"))["preprocessing"]["size"]
    random, images = np.random.default_rng(0), []
    for _ in range(8):
        images.append(Image.fromarray(random.integers(0, 256, (rows, columns, 3), "uint8")))
    bodies = [form(image) for image in images]
    reference, failed = None, False
    print("| images at once, at most | requests/s | median ms | 99th percentile ms |\n| --- | --- | --- | --- |")
    for batch_size in arguments.batch_sizes:
        server = Server(arguments.folder, batch_size)
        try:
            server.wait()
            speed, seconds, answers = measure(server, bodies, arguments.clients, arguments.requests)
            median, late = np.percentile(seconds, (50, 99)) * 1e3
            print(f"| {batch_size} | {speed:.0f} | {median:.1f} | {late:.1f} |", flush=True)
            best = [answer[0]["score"] for answer in answers]
            reference = reference or best
            if not np.allclose(best, reference, atol=1e-4):
                failed = True
                print("Answers depend on the batch", file=sys.stderr)
            counts = shutdown(server, bodies, arguments.clients)
            print(f"shutdown with {arguments.clients} clients waiting: {counts}", file=sys.stderr)
            failed = failed or counts["lost"] > 0
        finally:
            server.process.kill()
            server.process.wait()
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
