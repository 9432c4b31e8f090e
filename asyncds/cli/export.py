"""`asyncds export`: a checkpoint's model as a directory of its own, with a card, and on the hub."""

import shutil
import tempfile
from pathlib import Path

import yaml

from asyncds.launch.errors import UserError
from asyncds.launch.run_checkpoints import RunCheckpoint, find_checkpoint


def export_command(
    *,
    run_dir: Path,
    step: int | None,
    out: Path | None,
    push: str | None,
    public: bool,
    adapter: bool = False,
) -> Path:
    """Write the model of a checkpoint, and upload it; returns the directory.

    step: None for the newest. out: default, `export/step-<step>` in the run. push: a hub id.
    adapter: of LoRA the adapter alone, instead of the model with the adapter in its weights.

    Raises UserError where there is no such checkpoint, something is in the way, or nothing can be
    uploaded.
    """
    checkpoint = find_checkpoint(run_dir, step)
    if not checkpoint.is_adapter and not (checkpoint.model / "config.json").is_file():
        raise UserError(
            f"{checkpoint.directory} has no Hugging Face directory hf: choose another with --step"
        )
    if adapter and not checkpoint.is_adapter:
        raise UserError(f"{run_dir} trains whole models (no learner.lora): leave --adapter out")
    out = out or _place(run_dir, checkpoint, adapter=adapter)
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: choose another directory with --out")
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is there already: delete it, or choose another with --out")
    token = _token(push)
    _write(run_dir, checkpoint, out, adapter=adapter, place=push or out.name)
    if push is not None:
        _push(out, push, token=token, public=public)
    return out


def merged_model(run_dir: Path, checkpoint: RunCheckpoint) -> Path:
    """The model of a checkpoint; that of an adapter is exported first, if it is not there yet.

    Raises UserError where what is there in its place is not that.
    """
    if not checkpoint.is_adapter:
        return checkpoint.model
    out, manifest = _place(run_dir, checkpoint), checkpoint.directory / "manifest.json"
    if not out.exists():
        print(f"merging the adapter into its model: {out}")
        _write(run_dir, checkpoint, out, adapter=False, place=out.name)
    elif not (out / "config.json").is_file():
        raise UserError(f"{out} is in the way of the merged model: delete it")
    elif (out / "config.json").stat().st_mtime < manifest.stat().st_mtime:
        raise UserError(f"{out} is of an older checkpoint of that step: delete it")
    return out.resolve()


def _place(run_dir: Path, checkpoint: RunCheckpoint, *, adapter: bool = False) -> Path:
    return run_dir / "export" / f"step-{checkpoint.step}{'-adapter' if adapter else ''}"


def _write(
    run_dir: Path, checkpoint: RunCheckpoint, out: Path, *, adapter: bool, place: str
) -> None:
    """Fill a directory beside `out`, then rename it: it is there whole or not at all.

    adapter: write an adapter as it is, not the model with the adapter in its weights.
    """
    from asyncds.telemetry.model_card import model_card

    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        if checkpoint.is_adapter and not adapter:
            _merge(checkpoint.model, partial)
        else:
            shutil.copytree(checkpoint.model, partial, dirs_exist_ok=True)
        if template := _template(run_dir):
            (partial / "chat_template.jinja").write_text(template, "utf-8")
        card = model_card(run_dir, step=checkpoint.step, place=place, adapter=adapter)
        card.save(partial / "README.md")
        partial.chmod(0o755)
        if out.exists():
            out.rmdir()
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _merge(adapter: Path, directory: Path) -> None:
    from asyncds.engine.merging import write_merged

    try:
        write_merged(adapter, directory)
    except (OSError, ValueError, RuntimeError) as error:
        why = " ".join(str(error).split())[:300]
        raise UserError(
            f"the adapter {adapter} could not be merged into its model: {why}; "
            "--adapter exports it alone"
        ) from error


def _template(run_dir: Path) -> str:
    """The chat template that the run gave instead of the tokenizer's, or ""."""
    from asyncds.tasks.base import make_chat

    config = yaml.safe_load((run_dir / "config.yaml").read_text("utf-8"))
    asked = config.get("task") or config.get("data") or {}
    try:
        return make_chat(asked.get("chat")).template or ""
    except ValueError as error:
        raise UserError(f"the chat template of the run is gone: {error}") from error


def _token(push: str | None) -> str | None:
    """The token for an upload. Raises UserError where it takes one and there is none."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if push is None:
        return None
    try:
        validate_repo_id(push)
    except HFValidationError as error:
        raise UserError(f"--push {push} is no hub id such as me/my-model: {error}") from error
    if (token := get_token()) is None:
        raise UserError(
            "--push needs a token of the Hugging Face hub: `hf auth login`, or set HF_TOKEN"
        )
    return token


def _push(directory: Path, repo: str, *, token: str | None, public: bool) -> None:
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(token=token)
    try:
        api.create_repo(repo, private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=repo, folder_path=directory, commit_message=f"{directory.name}, by asyncds"
        )
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        why = " ".join(str(error).split())[:300]
        raise UserError(
            f"{directory} is there, but was not uploaded to {repo}: {why}; "
            f"`hf upload {repo} {directory}` tries again"
        ) from error
