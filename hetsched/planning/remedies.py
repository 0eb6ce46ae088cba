"""What would make a plan fit that does not: a shorter context, another format, the CPU alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..errors import InputError
from .gains import FORMATS
from .memory import memory_of
from .question import Question


def remedies_of(question: Question) -> list[str]:
    """Each as an option that makes it fit by itself; empty where none does, or nothing is wanting."""
    if memory_of(question).fits:
        return []
    return [option for option, changed in _changes(question) if _fits(changed)]


def _changes(question: Question) -> Iterator[tuple[str, Question]]:
    context = _longest_context(question)
    if context:
        yield f"--context {context}", replace(question, context_asked=context, prompt=min(question.prompt, context))
    if question.batch > 1:
        yield "--batch 1", replace(question, batch=1)
    if question.n_cpu_moe is not None:
        yield "no --n-cpu-moe", replace(question, n_cpu_moe=None)
    if question.gpu_memory is not None:
        yield "no --gpu-memory", replace(question, gpu_memory=None)
    for name in FORMATS:
        yield f"--format {name}", replace(question, format=name)
    if question.profile.gpu is not None:
        alone = replace(question.profile, gpu=None, h2d=None, d2h=None)
        yield "the CPU alone", replace(question, profile=alone, gpu_memory=None, n_cpu_moe=None)


def _longest_context(question: Question) -> int:
    """The longest context, a power of two, whose plan fits; 0 where none does."""
    context = 1 << (question.context - 1).bit_length() - 1 if question.context > 1 else 0
    context = min(context, question.model.shape.longest or context)
    while context and not _fits(replace(question, context_asked=context, prompt=min(question.prompt, context))):
        context //= 2
    return context


def _fits(question: Question) -> bool:
    try:
        question.check()
        return memory_of(question).fits
    except InputError:
        return False
