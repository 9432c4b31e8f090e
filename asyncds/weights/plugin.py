"""The ``vllm.general_plugins`` entry point: vLLM calls it in every one of its processes."""

BACKEND = "asyncds"
"""The name of our engine in vLLM's ``weight_transfer_config``."""


def register() -> None:
    """Make the transfer engine known to vLLM; a second call in a process changes nothing."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(
            BACKEND, "asyncds.weights.vllm_transfer", "AsyncdsTransferEngine"
        )
