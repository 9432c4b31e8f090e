"""The receiving side of the weight transfer, inside vLLM's workers.

One engine for both transports, which the rendezvous chooses. A worker receives a version beside the
model, on a thread; the front process asks how far it is, pauses the engine when every worker has
all of it, and has it activated. vLLM's own calls for weight transfers, which stop the engine for as
long as they last, are used for the activation only.
"""

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.lora.request import LoRARequest

from asyncds.weights.adapter_files import AdapterFiles
from asyncds.weights.communicator import TransferFailed
from asyncds.weights.layout import Layout, unpack_layout
from asyncds.weights.receiver import Order, Receiver, Tensors, joined
from asyncds.weights.twin import Twin, load_version

log = logging.getLogger(__name__)

WORKER_EXTENSION = "asyncds.weights.vllm_transfer.WorkerExtension"


@dataclass
class TransferInfo(WeightTransferInitInfo):
    """The contents of a version, and how a worker comes by it.

    rank_offset: group rank of this engine's first worker. layout: as `Layout.pack` packs it.
    timeout: the seconds there are.
    """

    rendezvous: str
    rank_offset: int
    world_size: int
    layout: bytes
    checksums: list[int]
    timeout: float

    def order(self, layout: Layout, *, worker: int) -> Order:
        """The same, of one worker."""
        return Order(
            rendezvous=self.rendezvous,
            rank=self.rank_offset + worker,
            world_size=self.world_size,
            placement=layout.placement,
            checksums=tuple(self.checksums),
            timeout=self.timeout,
        )


@dataclass
class ActivateInfo(WeightTransferUpdateInfo):
    """No information: what is activated has arrived before."""


class AsyncdsTransferEngine(WeightTransferEngine[TransferInfo, ActivateInfo]):
    """Receives versions beside the model, and loads one that is whole."""

    init_info_cls = TransferInfo
    update_info_cls = ActivateInfo
    supports_draft_weight_update = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Only in main memory: a GPU has no room for two.
        self._twins = self.device.type == "cpu"
        self._twin: Twin | None = None
        self._adapter: AdapterFiles | None = None
        self.receiver = Receiver(device=self.device, prepare=self._prepare)

    def init_transfer_engine(self, init_info: TransferInfo) -> None:
        """Begin to receive a version; returns at once. Raises TransferFailed while busy."""
        self._twin = None
        layout = unpack_layout(init_info.layout)
        self._adapter = None if layout.adapter is None else AdapterFiles(layout.adapter)
        self.receiver.begin(init_info.order(layout, worker=self.parallel_config.rank))

    @property
    def adapter(self) -> AdapterFiles | None:
        """The version that has arrived, if it is an adapter. Raises TransferFailed without one."""
        self.receiver.tensors()
        return self._adapter

    def start_weight_update(self) -> None:
        """Do nothing: an activation is one call."""

    def receive_weights(self, update_info: ActivateInfo) -> None:
        """Load the version that has arrived. When it fails, the model holds a mixture."""
        tensors, twin = self.receiver.tensors(), self._twin
        self._twin = None
        if twin is not None:
            twin.hand_over()
        else:
            load_version(self.model, tensors, self.model_config)

    def finish_weight_update(self) -> None:
        """Do nothing: an activation is one call."""

    def shutdown(self) -> None:
        self.receiver.close()
        if self._adapter is not None:
            self._adapter.discard()

    def _prepare(self, tensors: Tensors) -> None:
        """Write what is an adapter to files, load anything else into a twin, if there is one."""
        if self._adapter is not None:
            self._adapter.write(tensors)
            return
        if not self._twins:
            return
        try:
            twin = Twin(self.model)
            twin.load(tensors, self.model_config)
        except Exception:
            log.exception("this model can't be loaded beside itself: it is loaded in the pause")
            self._twins = False
        else:
            self._twin = twin


@dataclass(frozen=True, kw_only=True)
class WorkerOutcome:
    """How a call ended on one worker.

    error: what went wrong, or "". joined: whether the group of a transfer that failed was whole.
    busy: whether the transfer is still under way.
    """

    error: str = ""
    joined: bool = True
    busy: bool = False


class WorkerExtension:
    """Methods added to vLLM's workers, called from the front process by ``collective_rpc``.

    They never raise, and never wait. With several workers vLLM answers such a call with the first
    failure and leaves the other workers' answers where the next call reads them. So what went wrong
    is a ``WorkerOutcome`` of that worker, sent as a dict of plain types, which vLLM takes as it is.
    """

    weight_transfer_engine: AsyncdsTransferEngine
    _weight_update_active: bool
    init_weight_transfer_engine: Callable[[dict[str, Any]], None]
    start_weight_update: Callable[[], None]
    update_weights: Callable[[dict[str, Any]], None]
    finish_weight_update: Callable[[], None]
    add_lora: Callable[[LoRARequest], bool]

    def begin_transfer(self, info: dict[str, Any]) -> dict[str, Any]:
        """Begin to receive a version (``TransferInfo``) beside the model."""
        return _outcome(lambda: self.init_weight_transfer_engine(info))

    def transfer_state(self) -> dict[str, Any]:
        """Say how the transfer stands, or ended."""
        receiver = self.weight_transfer_engine.receiver
        if receiver.busy:
            return asdict(WorkerOutcome(busy=True))
        return _outcome(receiver.check)

    def activate(self) -> dict[str, Any]:
        """Load the version that has arrived; the engine is paused."""
        return _outcome(self._activate)

    def _activate(self) -> None:
        if adapter := self.weight_transfer_engine.adapter:
            self.add_lora(adapter.request)
            adapter.discard()
            return
        try:
            self.start_weight_update()
            self.update_weights({})
            self.finish_weight_update()
        finally:
            # vLLM leaves it open where the last step fails, and would refuse every later update.
            self._weight_update_active = False


def _outcome(call: Callable[[], None]) -> dict[str, Any]:
    """The ``WorkerOutcome`` of a call, as a dict."""
    try:
        call()
        outcome = WorkerOutcome()
    except TransferFailed as error:
        outcome = WorkerOutcome(error=str(error), joined=joined(error))
    except Exception as error:
        log.exception("a weight update failed")
        outcome = WorkerOutcome(error=repr(error))
    return asdict(outcome)
