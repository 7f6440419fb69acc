"""Bundles on the Hugging Face Hub, through huggingface_hub, which is imported where it is used."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from igds.bundle import bundle_path, check_files, limits_of, missing_parts, read_card
from igds.checkpoints import MissingPackage

# The Hub's identifiers of licences that a card's words begin with; what is not among them is "other".
_LICENSES = {
    "mit": "mit",
    "apache": "apache-2.0",
    "bsd-3": "bsd-3-clause",
    "cc-by-nc": "cc-by-nc-4.0",
    "cc0": "cc0-1.0",
}


def model_card(card: dict, repo: str) -> str:
    """README.md of a bundle, from its card.json alone: what it holds, whence it comes, its figures, how to use it."""
    words = str(card.get("license", "unknown"))
    known = next((name for start, name in _LICENSES.items() if words.lower().startswith(start)), "other")
    lines = [
        "---",
        f"license: {known}",
        *([f"license_name: {json.dumps(words, ensure_ascii=False)}"] if known == "other" else []),
        "library_name: igds",
        "pipeline_tag: unconditional-image-generation",
        "tags: [diffusion, dataset-distillation]",
        "---",
        "",
        f"# {card['title']}",
        "",
        "A bundle for information-guided diffusion sampling: a diffusion model draws, maximising I(X;Y) + β·H(X|Y).",
        "",
        f"- From: {card.get('source', 'unknown')}",
        f"- Licence: {words}",
        f"- Classes ({len(card['classes']):,}): {_listed(card['classes'])}",
    ]
    if limits := limits_of(card):
        lines.append(f"- {limits}")
    if missing := missing_parts(card):
        lines.append(f"- Not in it: {', '.join(missing)}")
    if parameters := card.get("parameters"):
        lines.append("- Parameters: " + ", ".join(f"{part} {count:,}" for part, count in parameters.items()))
    lines.append("- Defaults: " + ", ".join(f"{name} {_shown(value)}" for name, value in card["defaults"].items()))
    lines += ["", "## Use", "", f"    python -m igds pull {repo} --out bundle", "    python -m igds info bundle"]
    unguided = " --unguided" if "estimator" in missing else ""
    lines.append(
        f"    python -m igds sample --bundle bundle --label {json.dumps(card['classes'][0])}{unguided} --out images"
    )
    figures = {part: values for part, values in card.get("measured", {}).items() if values}
    if figures:
        lines += ["", "## Measured", "", "| part | figure | value |", "|---|---|---|"]
        for part, values in figures.items():
            lines += [f"| {part} | {name.replace('_', ' ')} | {_shown(value)} |" for name, value in values.items()]
    lines += ["", "## Files", "", "| file | sha256 |", "|---|---|"]
    lines += [f"| {file} | `{checksum}` |" for file, checksum in card["files"].items()]
    return "\n".join(lines) + "\n"


def push(name_or_path: str | Path, repo: str, *, private: bool = False) -> str:
    """Upload a bundle's card.json, the files it names and a README.md to the model repository `repo`; its address.

    The repository is made where there is none. Nothing else in the folder is sent, and nothing at all where a file is
    not the one in the card. Raises ValueError in one sentence for whatever the Hub or the network says.
    """
    path = bundle_path(name_or_path)
    card = read_card(path)
    check_files(path, card)
    hub = _hub()
    operations = [
        hub.CommitOperationAdd("README.md", model_card(card, repo).encode()),
        *(hub.CommitOperationAdd(file, str(path / file)) for file in ("card.json", *card["files"])),
    ]

    def send() -> str:
        api = hub.HfApi()
        url = api.create_repo(repo, private=private, exist_ok=True)
        api.create_commit(repo, operations, commit_message=f"Bundle {path.name}")
        return str(url)

    return _asked(send, repo, "pushed to")


def pull(repo: str, out: Path, *, revision: str | None = None) -> None:
    """Download the bundle in the model repository `repo` into the folder `out`, which appears whole and checked.

    Only card.json and the files that it names are taken. A download that was cut off goes on with the same call.
    Raises ValueError in one sentence where the repository holds no bundle, a file is not the one in the card, `out` is
    there already, or the Hub cannot be reached.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is there already: choose another --out, nothing was downloaded")
    hub = _hub()
    partial = out.with_name(f".{out.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)

    def take(file: str) -> None:
        _asked(
            lambda: hub.HfApi().hf_hub_download(repo, file, revision=revision, local_dir=partial), repo, "pulled from"
        )

    take("card.json")
    try:
        card = read_card(partial)
    except ValueError as error:
        shutil.rmtree(partial)
        raise ValueError(str(error).replace(str(partial / "card.json"), f"card.json of {repo}")) from None
    for file in card["files"]:
        take(file)
    try:
        check_files(partial, card)
    except ValueError:
        shutil.rmtree(partial)
        raise ValueError(
            f"{repo} has files that are not those of its card.json, nothing was kept: pull it again"
        ) from None
    shutil.rmtree(partial / ".cache", ignore_errors=True)
    if out.exists():
        out.rmdir()
    partial.rename(out)


def _hub():
    try:
        import huggingface_hub
    except ImportError:
        raise MissingPackage("push and pull need huggingface_hub: pip install huggingface_hub") from None
    return huggingface_hub


def _asked(ask: Callable, repo: str, doing: str):
    """What the Hub answers; its client's many errors become a ValueError of one sentence, the disk's own stay."""
    try:
        return ask()
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None and error.filename:
            raise
        raise ValueError(_sentence(error, repo, doing)) from None


def _sentence(error: Exception, repo: str, doing: str) -> str:
    errors = _hub().errors
    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__  # it only says that there is no copy here either
    if isinstance(error, errors.HFValidationError):
        return f"{repo!r} is no name of a repository: write OWNER/NAME"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo} has no such revision: leave --revision out for its newest"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{repo} is not on the Hub, or you may not see it: check the name, and `hf auth login` if it is private"
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
        return f"{repo} lacks a file of a bundle: give the repository of a whole one"
    if isinstance(error, errors.LocalTokenNotFoundError):
        return f"{repo} cannot be {doing} without an account: `hf auth login` first"
    if isinstance(error, errors.HfHubHTTPError) and error.response is not None:
        if error.response.status_code in (401, 403):
            return f"{repo} cannot be {doing} by you: `hf auth login` with a token that may"
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".:")
    return f"{repo} could not be {doing}, for the Hub did not do it ({reason}): try again, what had arrived is kept"


def _listed(names: list[str], most: int = 20) -> str:
    return ", ".join(names[:most]) + (f", … and {len(names) - most:,} more" if len(names) > most else "")


def _shown(value) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
