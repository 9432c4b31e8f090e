"""The receiving side of the weight transfer, inside vLLM's workers.

One engine for both transports, which the rendezvous chooses: NCCL into the worker's GPU, gloo into
host memory. vLLM drives it: ``init_transfer_engine`` joins a group, then every version takes
``start_weight_update``, ``update_weights`` (which calls ``receive_weights``) and
``finish_weight_update``.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.model_loader.mtp_validation import disable_mtp_completeness_check
from vllm.model_executor.model_loader.reload import (
    finalize_layerwise_reload,
    initialize_layerwise_reload,
)

from asyncds.weights.buckets import TensorSpec, plan_buckets, unpack
from asyncds.weights.checksum import checksum
from asyncds.weights.communicator import Communicator, TransferFailed, connect

log = logging.getLogger(__name__)

WORKER_EXTENSION = "asyncds.weights.vllm_transfer.WorkerExtension"


@dataclass
class InitInfo(WeightTransferInitInfo):
    """Where a worker joins which group.

    rank_offset: group rank of this engine's first worker. timeout: seconds to join.
    """

    rendezvous: str
    rank_offset: int
    world_size: int
    timeout: float


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):
    """The tensors of a version in the sender's order, its bucket size, the seconds there are."""

    names: list[str]
    dtypes: list[str]
    shapes: list[list[int]]
    bucket_bytes: int
    timeout: float

    @property
    def specs(self) -> list[TensorSpec]:
        return [
            TensorSpec(name, dtype, tuple(shape))
            for name, dtype, shape in zip(self.names, self.dtypes, self.shapes, strict=True)
        ]


class AsyncdsTransferEngine(WeightTransferEngine[InitInfo, UpdateInfo]):
    """Receives flat buckets and loads them into the model bucket by bucket.

    ``checksums`` are those of the buckets that the last completed update received.
    """

    init_info_cls = InitInfo
    update_info_cls = UpdateInfo
    supports_draft_weight_update = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.checksums: list[int] = []
        self._rendezvous: str | None = None
        self._communicator: Communicator | None = None

    def init_transfer_engine(self, init_info: InitInfo) -> None:
        """Join the group; no-op when this worker is in it. Raises TransferFailed."""
        if self._communicator is not None and self._rendezvous == init_info.rendezvous:
            return
        self.shutdown()
        self._communicator = connect(
            init_info.rendezvous,
            rank=init_info.rank_offset + self.parallel_config.rank,
            world_size=init_info.world_size,
            device=self.device,
            timeout=init_info.timeout,
        )
        self._rendezvous = init_info.rendezvous

    def start_weight_update(self) -> None:
        self.checksums = []
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: UpdateInfo) -> None:
        """Receive and load every bucket.

        On any error the group is left and the half-loaded layers are closed, so that the next
        update starts clean: the model then holds a mixture that must not be used until an update
        has completed.
        """
        if self._communicator is None:
            raise RuntimeError("no transfer group: init_transfer_engine comes first")
        try:
            # Loading by buckets, a model's speculative head is complete only at the end.
            with disable_mtp_completeness_check():
                self._receive(self._communicator, update_info)
        except BaseException:
            self._communicator.abort()
            self._communicator = None
            # vLLM keeps what it buffered for layers that are not complete; left there, it would
            # be counted as part of the next update and end a layer before all of it has arrived.
            finalize_layerwise_reload(self.model, self.model_config)
            raise

    def _receive(self, communicator: Communicator, update_info: UpdateInfo) -> None:
        deadline = time.monotonic() + update_info.timeout
        sums = []
        for bucket in plan_buckets(update_info.specs, max_bytes=update_info.bucket_bytes):
            # A new buffer for each: layerwise reloading keeps views of it until a layer is whole.
            flat = bucket.empty(communicator.device)
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TransferFailed("the deadline of the transfer has passed")
            communicator.broadcast(flat, timeout=remaining)
            sums.append(checksum(flat))
            self.model.load_weights(unpack(bucket, flat.to(self.device)))
        self.checksums = [int(total) for total in sums]

    def finish_weight_update(self) -> None:
        finalize_layerwise_reload(self.model, self.model_config)
        self._refresh_tied_head()

    def _refresh_tied_head(self) -> None:
        """Pack a tied output projection again.

        The reload refreshes the embedding that it is tied to, but on CPU the projection computes
        with a packed copy that only its own ``process_weights_after_loading`` makes.
        """
        if self.model_config.hf_text_config.tie_word_embeddings and hasattr(self.model, "lm_head"):
            head = self.model.lm_head
            if hasattr(head, "quant_method"):
                head.quant_method.process_weights_after_loading(head)

    def shutdown(self) -> None:
        if self._communicator is not None:
            self._communicator.close()
            self._communicator = None


@dataclass(frozen=True, kw_only=True)
class WorkerOutcome:
    """How a call ended on one worker.

    error: what went wrong, or "". checksums: of every bucket that was received, in order.
    """

    error: str = ""
    checksums: tuple[int, ...] = ()


class WorkerExtension:
    """Methods added to vLLM's workers, called from the front process by ``collective_rpc``.

    They never raise. With several workers vLLM answers such a call with the first failure and
    leaves the other workers' answers where the next call reads them. So what went wrong is a
    ``WorkerOutcome`` of that worker, sent as a dict of plain types, which vLLM takes as it is.
    """

    weight_transfer_engine: AsyncdsTransferEngine
    _weight_update_active: bool
    init_weight_transfer_engine: Callable[[dict[str, Any]], None]
    start_weight_update: Callable[[], None]
    update_weights: Callable[[dict[str, Any]], None]
    finish_weight_update: Callable[[], None]

    def join_group(self, init_info: dict[str, Any]) -> dict[str, Any]:
        """Join a transfer group (``InitInfo``); nothing changes where this worker is in it."""
        return _outcome(lambda: self.init_weight_transfer_engine(init_info))

    def replace_weights(self, update_info: dict[str, Any]) -> dict[str, Any]:
        """Receive and load one whole version (``UpdateInfo``).

        One call, so that no update is left half open when the caller gives up waiting.
        """
        return _outcome(lambda: self._replace(update_info))

    def _replace(self, update_info: dict[str, Any]) -> list[int]:
        try:
            self.start_weight_update()
            self.update_weights(update_info)
            self.finish_weight_update()
        finally:
            # vLLM leaves it open where the last step fails, and would refuse every later update.
            self._weight_update_active = False
        return self.weight_transfer_engine.checksums


def _outcome(call: Callable[[], list[int] | None]) -> dict[str, Any]:
    """The ``WorkerOutcome`` of a call, as a dict."""
    try:
        outcome = WorkerOutcome(checksums=tuple(call() or ()))
    except TransferFailed as error:
        outcome = WorkerOutcome(error=str(error))
    except Exception as error:
        log.exception("a weight update failed")
        outcome = WorkerOutcome(error=repr(error))
    return asdict(outcome)
