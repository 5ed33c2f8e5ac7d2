"""anovl prompts: the sentences a class is scored with."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from anovl.cli import words


def prompts(
    class_name: Annotated[str, typer.Argument(help="What the image shows, such as 'metal nut'.")],
    *,
    recipe: Annotated[str, typer.Option(help="default, paper or released.")] = "default",
    domain: words.Domain = None,
    defect: words.Defects = None,
    state: words.States = None,
    template: words.Templates = None,
    domain_word: words.DomainWords = None,
    prompt_file: words.PromptFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of lines.")] = False,
) -> None:
    """Print the prompt pairs of a class, normal and abnormal, a tab between them."""
    from anovl.config import recipe as make_recipe
    from anovl.core.prompts import Wording, build_prompts

    chosen = words.wording(
        Wording(),
        domain=domain,
        defects=defect,
        states=state,
        templates=template,
        domain_words=domain_word,
        prompt_file=prompt_file,
    )
    found = build_prompts(class_name, chosen, style=make_recipe(recipe).prompts)
    if as_json:
        typer.echo(json.dumps({"class_name": class_name, "normal": found.normal, "abnormal": found.abnormal}, indent=1))
        return
    for good, bad in zip(found.normal, found.abnormal, strict=True):
        typer.echo(f"{good}\t{bad}")
