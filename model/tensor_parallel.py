"""One rank's slice of a model: DeepSpeed AutoTP shards the linears, then each rank reads only its own weights.

The only file that imports DeepSpeed. Called by every rank of a replica, also when there is just one. A model of ours is
built without memory (meta device), sharded by shape alone, given memory, and filled from the checkpoint slice by slice.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tirazh.errors import RequestError

if TYPE_CHECKING:
    from tirazh.model.config import ModelConfig

logger = logging.getLogger(__name__)

_SHARED_MEMORY_OP = "deepspeed_shm_comm"
# A directory of compiled operators that holds a file of this name is ours alone: we build under a lock on it.
BUILD_LOCK_NAME = "tirazh.lock"


class WeightSource(Protocol):
    """What is needed of `tirazh.model.checkpoints.directory.Checkpoint`."""

    @property
    def path(self) -> str: ...

    def names(self) -> list[str]: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def read(self, name: str, dim: int | None = None, start: int = 0, stop: int | None = None) -> Tensor: ...


def shard_model(
    config: ModelConfig | None,
    checkpoint: WeightSource,
    *,
    dtype: str,
    device: str,
    tp_rank: int,
    tp_size: int,
) -> nn.Module:
    """Build rank `tp_rank`'s part of the model, ready to run; `.logits` are whole on every rank.

    With tp_size > 1 the process group must be there, and all ranks call this together, best after `connect`.
    `config` None: any other transformers model; it is read whole before it is sharded.
    Raises RequestError where the model cannot be split so.
    """
    check_split(config, tp_size)
    if tp_size > 1:
        connect(may_share_memory=False)
    if config is None:
        return _shard_foreign(checkpoint.path, dtype, device, tp_size)
    model = _build_without_memory(config)
    model.model = _init_inference(model.model, dtype, tp_size)
    _fill(model, checkpoint, tp_rank, device)
    model.set_tensor_parallel(tp_rank, tp_size)
    _simplify(model)
    return model.eval()


def check_split(config: ModelConfig | None, tp_size: int) -> None:
    """Raise RequestError when the attention heads cannot be shared evenly. Needs no other rank."""
    if config is not None and config.num_attention_heads % tp_size:
        raise RequestError(
            f"{config.num_attention_heads} attention heads cannot be shared by {tp_size} ranks; "
            f"--tensor-parallel must divide {config.num_attention_heads}"
        )


def connect(*, may_share_memory: bool) -> None:
    """Start DeepSpeed's communication on the process group that is there; does nothing when it has been started.

    All ranks choose the same way to add up: with `may_share_memory` (a CPU, all ranks on this host, and LOCAL_SIZE in
    the environment says so) DeepSpeed's shared memory if every rank has it, else gloo (NCCL on GPUs).
    """
    import deepspeed

    if deepspeed.comm.is_initialized():
        return
    if not agree_on_least(int(may_share_memory and _build_shared_memory_op())):
        # Left on, it would be used across hosts too, on memory that was never mapped.
        deepspeed.ops.__compatible_ops__[_SHARED_MEMORY_OP] = False
    with contextlib.redirect_stdout(io.StringIO()):
        deepspeed.init_distributed(dist.get_backend(), verbose=False)


def agree_on_least(value: int) -> int:
    """The least of what the ranks say; all of them ask together."""
    least = torch.tensor(value, device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(least, dist.ReduceOp.MIN)
    return int(least)


def weight_bytes(model: nn.Module) -> int:
    """Bytes of the weights that this rank holds (a tied one counts once, unless it was packed)."""
    return sum(weight.numel() * weight.element_size() for weight in (*model.parameters(), *model.buffers()))


def _build_without_memory(config: ModelConfig) -> Any:
    from tirazh.model.gpt import RuGPT3Config, RuGPT3ForCausalLM

    with torch.device("meta"):
        model = RuGPT3ForCausalLM(RuGPT3Config.from_model_config(config))
    assert not list(model.buffers()), "a buffer made on the meta device would stay uninitialised"
    return model


def _init_inference(base: nn.Module, dtype: str, tp_size: int) -> nn.Module:
    """Let DeepSpeed shard the transformer. Given without its lm_head, which stays whole: DeepSpeed would untie it."""
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    wanted = getattr(torch, dtype)
    # DeepSpeed refuses float16 on a CPU that has no instructions for it; torch computes it all the same.
    accepted = wanted if wanted in get_accelerator().supported_dtypes() else torch.float32
    with contextlib.redirect_stdout(io.StringIO()):
        engine = deepspeed.init_inference(
            base, tensor_parallel={"tp_size": tp_size}, dtype=accepted, replace_with_kernel_inject=False
        )
    return engine.module.to(wanted)


@torch.no_grad()
def _fill(model: Any, checkpoint: WeightSource, tp_rank: int, device: str) -> None:
    """Copy this rank's slice of every weight into the sharded model."""
    if "lm_head.weight" in checkpoint.names():
        head = torch.empty(checkpoint.shape("lm_head.weight"), dtype=model.model.dtype, device=device)
        model.lm_head.weight = nn.Parameter(head, requires_grad=False)
    else:
        model.lm_head.weight = model.model.embed_tokens.weight
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(False)
        dim = _sharded_dim(checkpoint.shape(name), tuple(parameter.shape))
        if dim is None:
            parameter.copy_(checkpoint.read(name))
        else:
            start = tp_rank * parameter.shape[dim]
            parameter.copy_(checkpoint.read(name, dim, start, start + parameter.shape[dim]))


def _sharded_dim(whole: tuple[int, ...], local: tuple[int, ...]) -> int | None:
    """The dimension along which a weight was split: 0 of a column-parallel linear, 1 of a row-parallel one."""
    return next((dim for dim, (a, b) in enumerate(zip(whole, local, strict=True)) if a != b), None)


class RowParallelLinear(nn.Module):
    """A linear layer of which this rank has some of the inputs: products are added up over the ranks, then the bias."""

    def __init__(self, linear: nn.Linear, bias: Any, group: Any) -> None:
        super().__init__()
        self.linear = linear
        self.bias: Tensor | None
        self.register_buffer("bias", bias)
        self._group = group

    def forward(self, x: Tensor) -> Tensor:
        import deepspeed

        out: Tensor = self.linear(x)
        deepspeed.comm.inference_all_reduce(out, group=self._group)
        return out if self.bias is None else out + self.bias


def _simplify(model: nn.Module) -> None:
    """Put plain linears in the place of DeepSpeed's own classes, which also train: then they can be packed."""
    from deepspeed.module_inject.layers import LinearAllreduce, LinearLayer

    child: Any
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is LinearLayer and not child.gather_output:
                setattr(module, name, _plain_linear(child.weight, child.bias))
            elif type(child) is LinearAllreduce:
                linear = _plain_linear(child.weight, None)
                setattr(module, name, RowParallelLinear(linear, child.bias, child.mp_group))


def _plain_linear(weight: Any, bias: Any) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight, linear.bias = weight, bias
    return linear


def _shard_foreign(path: str, dtype: str, device: str, tp_size: int) -> nn.Module:
    """Load any other causal LM by transformers (never remote code) and shard it."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype), local_files_only=True)
    for name in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
        count = getattr(model.config, name, None)
        if count and count % tp_size:
            raise RequestError(f"{path}: {name} is {count}, which --tensor-parallel {tp_size} does not divide")
    prefix = model.base_model_prefix
    try:
        setattr(model, prefix, _init_inference(model.base_model, dtype, tp_size))
    except AssertionError as error:  # how AutoTP says that it does not know a model
        raise RequestError(f"{path}: DeepSpeed cannot shard this model ({error}); use --tensor-parallel 1") from error
    _simplify(model)
    return model.to(device).requires_grad_(False).eval()


def _build_shared_memory_op() -> bool:
    """Compile (once a machine) and load DeepSpeed's shared-memory all-reduce. False where there is no compiler."""
    from deepspeed.accelerator import get_accelerator

    try:
        builder = get_accelerator().create_op_builder("ShareMemCommBuilder")
        with _build_lock(), contextlib.redirect_stdout(io.StringIO()):
            builder.load(verbose=False)
    except (RuntimeError, OSError, ImportError) as error:
        logger.warning("DeepSpeed's shared-memory all-reduce cannot be built here, gloo takes its place: %s", error)
        return False
    return True


@contextlib.contextmanager
def _build_lock() -> Iterator[None]:
    """One build at a time, and none that waits for a builder which was killed: torch's own lock is a plain file."""
    from torch.utils.cpp_extension import _get_build_directory

    folder = Path(_get_build_directory(_SHARED_MEMORY_OP, False))
    lock = folder.parent / BUILD_LOCK_NAME
    if not lock.exists():
        yield
        return
    with lock.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        (folder / "lock").unlink(missing_ok=True)
        yield
