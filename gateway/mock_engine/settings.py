"""The mock engine's settings, frozen at start. Faults alone change later, through the control endpoint."""

from dataclasses import dataclass

from gateway.mock_engine.faults import Fault

FIXED = "fixed"


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the command line can say. Durations in seconds; port 0 takes a free one."""

    name: str = "mock"
    host: str = "127.0.0.1"
    port: int = 0
    control_port: int | None = None  # None: control only on the data port
    models: tuple[str, ...] = ("mock-model",)
    strict_model: bool = False
    preset: str = FIXED  # or a name in gateway.sim.engine.PRESETS
    ttft_s: float = 0.05  # fixed only
    tpot_s: float = 0.01  # fixed only
    max_num_seqs: int | None = None  # None: the preset's own; 256 for fixed
    seed: int = 0
    faults: tuple[Fault, ...] = ()
