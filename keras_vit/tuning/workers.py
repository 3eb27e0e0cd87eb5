"""Searches with several processes: the chief answers its workers, and each notices the loss of the other.

Like `tuners.py`, this file uses private names of keras-tuner 1.4.8.
"""

import contextlib
import os
import signal
import threading
import time
from concurrent import futures
from typing import Any

import keras_tuner
from keras_tuner.src.engine.trial import TrialStatus

ALIVE = [  # a dead process is noticed at once and a dead machine within three minutes, but a busy machine does not count as dead
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 120_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
]


def client(oracle: Any, wait: float) -> Any:
    """Returns the oracle of a worker. It forwards all calls to the chief, and keeps a connection to it open."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    import grpc
    from keras_tuner.src import protos
    from keras_tuner.src.distribute.oracle_client import TIMEOUT, OracleClient

    class Client(OracleClient):
        def __init__(self, oracle):
            super().__init__(oracle)
            address = f"{os.environ['KERASTUNER_ORACLE_IP']}:{os.environ['KERASTUNER_ORACLE_PORT']}"
            channel = grpc.insecure_channel(address, options=ALIVE)
            try:
                grpc.channel_ready_future(channel).result(timeout=wait)
            except grpc.FutureTimeoutError:
                raise OSError(f"The chief did not answer within {wait:.0f} seconds. Received: {address}") from None
            self.stub = protos.get_service_grpc().OracleStub(channel)
            self.line = channel.unary_stream("/keras_vit/hold")(self.tuner_id.encode())
            next(self.line)  # the chief has accepted the connection

        def hold(self, search):
            """Searches until all trials have ended, or the chief is lost."""
            done, gone = threading.Event(), threading.Event()

            def watch():
                with contextlib.suppress(grpc.RpcError):
                    next(self.line, None)  # returns when the connection breaks
                if not done.is_set():
                    gone.set()
                    os.kill(os.getpid(), signal.SIGTERM)  # within `fit`, the handler saves a checkpoint first

            threading.Thread(target=watch, daemon=True).start()
            try:
                search(verbose=0)
            except SystemExit:
                if gone.is_set():
                    raise OSError("The chief is gone. Start it and this worker again: trials resume from their checkpoints") from None
                raise
            finally:
                done.set()
                self.line.cancel()

        def create_trial(self, tuner_id):
            trial = super().create_trial(tuner_id)
            if trial.status == TrialStatus.IDLE:
                time.sleep(1)  # the tuner would ask again at once
            return trial

        def end_trial(self, trial):
            # Keras Tuner's protocol has no field for the message.
            request = protos.get_service().EndTrialRequest(trial=trial.to_proto())
            message = ("message-bin", (trial.message or "").encode()[-4000:])
            self.stub.EndTrial(request, wait_for_ready=True, timeout=TIMEOUT, metadata=[message])

    return Client(oracle)


def serve(oracle: Any, wait: float) -> None:
    """Answers the workers until all trials have ended and all workers have left.

    Args:
        oracle: the oracle of the search.
        wait: float. Seconds without a worker after which the search stops.

    Raises:
        OSError: if the address is in use, or there was no worker for `wait` seconds.
    """
    import grpc
    from keras_tuner.src import protos
    from keras_tuner.src.distribute.oracle_chief import OracleServicer

    lines = {}

    class Servicer(OracleServicer):
        def EndTrial(self, request, context):
            trial = keras_tuner.engine.trial.Trial.from_proto(request.trial)
            trial.message = dict(context.invocation_metadata())["message-bin"].decode(errors="replace") or None
            self.oracle.end_trial(trial)
            return protos.get_service().EndTrialResponse()

    def hold(tuner_id, context):
        """Answers a call that lasts as long as the worker, so that its end is noticed even if it is killed."""
        name, ended = tuner_id.decode(), threading.Event()
        lines[name] = context
        context.add_callback(ended.set)
        yield b""
        ended.wait()
        if lines.get(name) is context:  # the worker has not reconnected yet
            oracle.release(name)
            del lines[name]

    address = f"{os.environ['KERASTUNER_ORACLE_IP']}:{os.environ['KERASTUNER_ORACLE_PORT']}"
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=1000), options=ALIVE)  # each worker occupies a thread
    servicer = Servicer(oracle)
    protos.get_service_grpc().add_OracleServicer_to_server(servicer, server)
    handlers = {"hold": grpc.unary_stream_rpc_method_handler(hold)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("keras_vit", handlers),))
    try:
        server.add_insecure_port(address)
    except RuntimeError:
        raise OSError(f"The chief cannot listen at its address. Received: {address}") from None
    server.start()
    seen = time.monotonic()
    try:
        while lines or not (servicer.stop_triggered or len(oracle.end_order) >= oracle.max_trials):
            time.sleep(0.2)
            if lines:
                seen = time.monotonic()
            elif time.monotonic() - seen > wait:
                raise OSError(f"No worker is left, and none connected for {wait:.0f} seconds. The same command resumes the search")
    finally:
        server.stop(None)
