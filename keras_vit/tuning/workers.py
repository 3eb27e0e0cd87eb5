"""Searches of several processes: the chief answers its workers, and each notices when the other is gone.

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

ALIVE = [  # a process that died is noticed at once, a machine that lost its power within three minutes; a busy one may take its time
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 120_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
]


def client(oracle: Any, wait: float) -> Any:
    """Returns the oracle of a worker: it asks the chief, and holds a line to it."""
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
                raise OSError(f"The chief did not answer for {wait:.0f} seconds. Received: {address}") from None
            self.stub = protos.get_service_grpc().OracleStub(channel)
            self.line = channel.unary_stream("/keras_vit/hold")(self.tuner_id.encode())
            next(self.line)  # the chief has taken it

        def hold(self, search):
            """Searches until there is nothing left to try, or the chief is gone."""
            done, gone = threading.Event(), threading.Event()

            def watch():
                with contextlib.suppress(grpc.RpcError):
                    next(self.line, None)  # returns when the line breaks
                if not done.is_set():
                    gone.set()
                    os.kill(os.getpid(), signal.SIGTERM)  # within `fit` it saves first

            threading.Thread(target=watch, daemon=True).start()
            try:
                search(verbose=0)
            except SystemExit:
                if gone.is_set():
                    raise OSError("The chief is gone. Begin it again, and this worker: trials go on from their checkpoints") from None
                raise
            finally:
                done.set()
                self.line.cancel()

        def create_trial(self, tuner_id):
            trial = super().create_trial(tuner_id)
            if trial.status == TrialStatus.IDLE:
                time.sleep(1)  # the tuner asks again at once
            return trial

        def end_trial(self, trial):
            # The message has no place in Keras Tuner's protocol.
            request = protos.get_service().EndTrialRequest(trial=trial.to_proto())
            message = ("message-bin", (trial.message or "").encode()[-4000:])
            self.stub.EndTrial(request, wait_for_ready=True, timeout=TIMEOUT, metadata=[message])

    return Client(oracle)


def serve(oracle: Any, wait: float) -> None:
    """Answers the workers until all trials have ended and the workers have left.

    Raises:
        OSError: if the address is taken, or no worker came, or was left, for `wait` seconds.
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
        """A call that lasts as long as the worker. Its end is noticed also if the worker is killed."""
        name, ended = tuner_id.decode(), threading.Event()
        lines[name] = context
        context.add_callback(ended.set)
        yield b""
        ended.wait()
        if lines.get(name) is context:  # and the worker has not come back yet
            oracle.release(name)
            del lines[name]

    address = f"{os.environ['KERASTUNER_ORACLE_IP']}:{os.environ['KERASTUNER_ORACLE_PORT']}"
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=1000), options=ALIVE)  # a thread is held by each worker
    servicer = Servicer(oracle)
    protos.get_service_grpc().add_OracleServicer_to_server(servicer, server)
    handlers = {"hold": grpc.unary_stream_rpc_method_handler(hold)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("keras_vit", handlers),))
    try:
        server.add_insecure_port(address)
    except RuntimeError:
        raise OSError(f"The chief must be able to listen at its address. Received: {address}") from None
    server.start()
    seen = time.monotonic()
    try:
        while lines or not (servicer.stop_triggered or len(oracle.end_order) >= oracle.max_trials):
            time.sleep(0.2)
            if lines:
                seen = time.monotonic()
            elif time.monotonic() - seen > wait:
                raise OSError(f"No worker is left, and none came for {wait:.0f} seconds; the same command goes on with the search")
    finally:
        server.stop(None)
