"""Shards a model over tensor-parallel ranks with DeepSpeed AutoTP.

Each rank reads only its own slice of the weights. A ruGPT-3 is built on the meta device, sharded by
shape alone, and then filled from the checkpoint slice by slice. A single rank needs neither DeepSpeed nor
transformers, which only a foreign model imports.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tirazh.errors import RequestError
from tirazh.model.architectures import check_tensor_parallel
from tirazh.model.checkpoints.hugging_face import load_foreign
from tirazh.model.config import ModelConfig, check_invariant, check_split
from tirazh.model.kernels.calls import Call, PythonCall
from tirazh.model.layers.chunked_linear import ChunkedLinear
from tirazh.model.layers.int8_linear import activation_dtype
from tirazh.model.layers.packed_linear import pack_linears
from tirazh.model.layers.prepared_linear import Workspace, has_calls
from tirazh.model.transformer import PlainLanguageModel

logger = logging.getLogger(__name__)

_LAYERS = "model.layers."
_SHARED_MEMORY_OP = "deepspeed_shm_comm"
# The file that marks a directory of compiled operators as used by tirazh alone; builds there take a
# lock on it.
BUILD_LOCK_NAME = "tirazh.lock"


class WeightSource(Protocol):
    """The part of `tirazh.model.checkpoints.directory.Checkpoint` that sharding needs."""

    @property
    def path(self) -> str: ...

    def names(self) -> list[str]: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def read(self, name: str, dim: int | None = None, start: int = 0, stop: int | None = None) -> Tensor: ...


def shard_model(  # noqa: PLR0913 - what decides the shard of a rank
    config: ModelConfig | None,
    checkpoint: WeightSource,
    *,
    dtype: str,
    device: str,
    tp_rank: int,
    tp_size: int,
    is_invariant: bool = False,
    on_loaded: Callable[[nn.Module], object] = lambda _: None,
) -> nn.Module:
    """Build rank `tp_rank`'s shard of the model, ready to run; every rank returns the complete `.logits`.

    With dtype "int8" the linears of a ruGPT-3's layers are rounded to 8 bits as soon as their layer was read, so that
    the memory never holds the whole model in a wider dtype; those of a foreign model are left to `pack_linears`.
    `is_invariant`: once its linears are packed, the model gives the same bits on 1, 2 and 4 ranks.

    With tp_size > 1 the process group must exist, and all ranks call this together, preferably
    after `connect`. With `config` None the checkpoint is a foreign model of transformers, which is
    read whole before it is sharded; `on_loaded` then gets it whole.
    Raises RequestError when the model cannot be sharded over `tp_size` ranks.
    """
    check_split(None if config is None else config.num_attention_heads, tp_size)
    if is_invariant:
        check_invariant(config, tp_size)
    to_int8 = dtype == "int8"
    if to_int8:
        dtype = str(activation_dtype()).removeprefix("torch.")
    if tp_size > 1:
        connect(may_share_memory=False)
    if config is None:
        return _shard_foreign(checkpoint.path, dtype, device, tp_size, on_loaded)
    model = _build_without_memory(config)
    if tp_size > 1:  # without DeepSpeed for a single rank: its import takes a second
        model.add_module("model", _init_inference(model.model, dtype, tp_size))
        model.set_tensor_parallel(tp_rank, tp_size)
    allocate = functools.partial(_allocate, dtype=getattr(torch, dtype), device=device)
    finish_layer = functools.partial(_finish_layer, tp_size=tp_size, to_int8=to_int8, is_invariant=is_invariant)
    _fill(model, checkpoint, tp_rank, allocate, finish_layer)
    network: nn.Module = model.eval()
    return network


def connect(*, may_share_memory: bool) -> None:
    """Start DeepSpeed's communication on the existing process group, unless it is already started.

    All ranks choose the same all-reduce backend: DeepSpeed's shared memory when `may_share_memory`
    (CPU, all ranks on this host, and LOCAL_SIZE set in the environment) and every rank could build
    it, else gloo (NCCL on GPUs).
    """
    import deepspeed

    if deepspeed.comm.is_initialized():
        return
    if not agree_on_least(int(may_share_memory and _build_shared_memory_op())):
        # Otherwise DeepSpeed would use it across hosts too, on memory that was never mapped.
        deepspeed.ops.__compatible_ops__[_SHARED_MEMORY_OP] = False
    with contextlib.redirect_stdout(io.StringIO()):
        deepspeed.init_distributed(dist.get_backend(), verbose=False)


def agree_on_least(value: int) -> int:
    """Return the minimum of the ranks' values; all ranks call this together."""
    least = torch.tensor(value, device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(least, dist.ReduceOp.MIN)
    return int(least)


def weight_bytes(model: nn.Module) -> int:
    """Return the bytes of the weights on this rank (a tied weight counts once, unless it was packed)."""
    return sum(weight.numel() * weight.element_size() for weight in (*model.parameters(), *model.buffers()))


def _build_without_memory(config: ModelConfig) -> PlainLanguageModel:
    model = PlainLanguageModel.without_memory(config)
    assert not list(model.buffers()), "a buffer made on the meta device would stay uninitialised"
    return model


def _init_inference(base: nn.Module, dtype: str, tp_size: int) -> nn.Module:
    """Let DeepSpeed shard the transformer.

    The lm_head is not passed and stays whole: DeepSpeed would untie it.
    """
    import deepspeed
    from deepspeed.accelerator import get_accelerator

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    wanted = getattr(torch, dtype)
    # DeepSpeed refuses float16 on a CPU without float16 instructions; torch computes it anyway.
    accepted = wanted if wanted in get_accelerator().supported_dtypes() else torch.float32
    with contextlib.redirect_stdout(io.StringIO()):
        engine = deepspeed.init_inference(
            base, tensor_parallel={"tp_size": tp_size}, dtype=accepted, replace_with_kernel_inject=False
        )
    sharded: nn.Module = engine.module.to(wanted)
    return sharded


def _allocate(module: nn.Module, *, dtype: torch.dtype, device: str) -> None:
    """Give memory to the weights that have none. `Module.to_empty` does the same, but imports torch's compiler."""
    for each in module.modules():
        for name, weight in each.named_parameters(recurse=False):
            if weight.is_meta:
                memory = torch.empty(weight.shape, dtype=dtype, device=device)
                setattr(each, name, nn.Parameter(memory, requires_grad=False))


def _finish_layer(layer: nn.Module, *, tp_size: int, to_int8: bool, is_invariant: bool) -> None:
    if tp_size > 1:
        _use_plain_linears(layer)
    if is_invariant:
        _use_chunked_linears(layer, tp_size)
    if to_int8:
        pack_linears(layer, rows=1, to_int8=True)


@torch.no_grad()
def _fill(
    model: Any,
    checkpoint: WeightSource,
    tp_rank: int,
    allocate: Callable[[nn.Module], object],
    finish_layer: Callable[[nn.Module], object],
) -> None:
    """Copy this rank's slice of every weight into the sharded model.

    A layer gets its memory before it is read, and `finish_layer` gets it when it is full, so that only one layer
    at a time is in the dtype in which it was read.
    """
    for name, child in model.model.named_children():
        if name != "layers":
            allocate(child)
    if "lm_head.weight" in checkpoint.names():
        allocate(model.lm_head)
    else:
        model.lm_head.weight = model.model.embed_tokens.weight
    for index, layer in enumerate(model.model.layers):
        allocate(layer)
        for name, parameter in layer.named_parameters():
            _fill_one(f"{_LAYERS}{index}.{name}", parameter, checkpoint, tp_rank)
        finish_layer(layer)
    for name, parameter in model.named_parameters():
        if not name.startswith(_LAYERS):
            _fill_one(name, parameter, checkpoint, tp_rank)


def _fill_one(name: str, parameter: nn.Parameter, checkpoint: WeightSource, tp_rank: int) -> None:
    parameter.requires_grad_(False)
    dim = _sharded_dim(checkpoint.shape(name), tuple(parameter.shape))
    if dim is None:
        parameter.copy_(checkpoint.read(name))
    else:
        start = tp_rank * parameter.shape[dim]
        parameter.copy_(checkpoint.read(name, dim, start, start + parameter.shape[dim]))


def _sharded_dim(whole: tuple[int, ...], local: tuple[int, ...]) -> int | None:
    """Return the sharded dimension of a weight: 0 in a column-parallel linear, 1 in a row-parallel one."""
    return next((dim for dim, (a, b) in enumerate(zip(whole, local, strict=True)) if a != b), None)


class RowParallelLinear(nn.Module):
    """A linear layer sharded by its inputs: all-reduces the ranks' partial outputs, then adds the bias."""

    def __init__(self, linear: nn.Linear, bias: Any, group: Any) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.linear = linear
        self.bias: Tensor | None
        self.register_buffer("bias", bias)
        self._group = group

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs of this rank] to [..., out]. All ranks call this together."""
        out: Tensor = self.linear(x)
        self._add_up(out)
        return out

    def has_calls(self, dtype: torch.dtype) -> bool:
        return has_calls(self.linear, dtype)

    def prepare(self, x: Tensor, out: Tensor, workspace: Workspace) -> list[Call]:
        linear: Any = self.linear
        return [*linear.prepare(x, out, workspace), PythonCall(self._add_up, (out,))]

    def _add_up(self, out: Tensor) -> None:
        """Add the other ranks' partial outputs and the bias, in place."""
        import deepspeed

        deepspeed.comm.inference_all_reduce(out, group=self._group)
        if self.bias is not None:
            out += self.bias


def _use_plain_linears(model: nn.Module) -> None:
    """Replace DeepSpeed's linear classes, which also train, by plain ones that can be packed."""
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


def _use_chunked_linears(layer: Any, tp_size: int) -> None:
    """Replace the row-parallel linears of a ruGPT-3's layer, whose sums depend on the number of ranks."""
    for module, name in ((layer.self_attn, "o_proj"), (layer.mlp, "down_proj")):
        linear = getattr(module, name)
        weight = (linear.linear if isinstance(linear, RowParallelLinear) else linear).weight
        gather = _gather if tp_size > 1 else None
        setattr(module, name, ChunkedLinear(weight, linear.bias, ranks=tp_size, gather=gather))


def _gather(own: Tensor) -> Tensor:
    """Return the tensors of all ranks in their order, [ranks, ...]; all ranks call this together.

    By gloo, whose ranks sleep while they wait: DeepSpeed's shared memory has a sum only, in an order of its own.
    """
    gathered = own.new_empty(dist.get_world_size() * len(own), *own.shape[1:])
    dist.all_gather_into_tensor(gathered, own)
    return gathered.view(-1, *own.shape)


def _shard_foreign(
    path: str, dtype: str, device: str, tp_size: int, on_loaded: Callable[[nn.Module], object]
) -> nn.Module:
    """Load a foreign causal LM with transformers (never remote code) and shard it."""
    model: Any = load_foreign(path, getattr(torch, dtype))
    check_tensor_parallel(model.config.to_dict(), tp_size)
    if tp_size == 1:
        model = model.to(device)
    on_loaded(model.requires_grad_(False).eval())
    if tp_size > 1:
        prefix = model.base_model_prefix
        try:
            setattr(model, prefix, _init_inference(model.base_model, dtype, tp_size))
        except AssertionError as error:  # how AutoTP reports an unsupported model
            raise RequestError(
                f"{path}: DeepSpeed cannot shard this model ({error}); use --tensor-parallel 1"
            ) from error
        _use_plain_linears(model)
    network: nn.Module = model.to(device).requires_grad_(False).eval()
    return network


def _build_shared_memory_op() -> bool:
    """Compile (once per machine) and load DeepSpeed's shared-memory all-reduce.

    Returns False without a compiler.
    """
    from deepspeed.accelerator import get_accelerator

    try:
        builder = get_accelerator().create_op_builder("ShareMemCommBuilder")
        with _build_lock(), contextlib.redirect_stdout(io.StringIO()):
            builder.load(verbose=False)
    except (RuntimeError, OSError, ImportError) as error:
        logger.warning("DeepSpeed's shared-memory all-reduce cannot be built here, so gloo is used: %s", error)
        return False
    return True


@contextlib.contextmanager
def _build_lock() -> Iterator[None]:
    """Build one at a time, without waiting for a killed builder, whose torch lock file remains."""
    from torch.utils.cpp_extension import _get_build_directory

    folder = Path(_get_build_directory(_SHARED_MEMORY_OP, False))
    lock = folder.parent / BUILD_LOCK_NAME
    if not lock.exists():
        yield
        return
    with lock.open("a") as handle:
        with contextlib.suppress(OSError):  # a file system without locks: torch's own lock file remains
            fcntl.flock(handle, fcntl.LOCK_EX)
            (folder / "lock").unlink(missing_ok=True)
        yield
