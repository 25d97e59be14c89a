"""The exemplars of a run that has a teacher, made before it begins."""

import asyncio
import logging

from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.run_folder import RunFolder, check_unused
from selfstudy_engine.data.schema import Exemplar, Molecule
from selfstudy_engine.engine.reporter import Reporter
from selfstudy_engine.engine.teacher import Rejection, describe_rejections, teach
from selfstudy_engine.engine.teacher_client import Teacher

logger = logging.getLogger(__name__)


def taught_exemplars(
    config: RunConfig, folder: RunFolder, reporter: Reporter, key: str
) -> list[Exemplar]:
    """Have the teacher explain molecules.

    Args:
        config: names the teacher's server.
        folder: of a run that hasn't begun; the teacher's answers are kept there.
        reporter: is told how far the teacher is.
        key: API key of the server.

    Returns:
        Those that stand every check; mostly config.teacher.num_exemplars, never none.

    Raises:
        UsageError: the folder holds something else.
        SelfStudyError: the teacher can't be asked any more.
    """
    if not folder.identity.exists():
        check_unused(folder, config)
    settings, num_explained = config.teacher, 0
    assert settings.url, "there is a teacher"

    def on_decided(molecule: Molecule, outcome: Exemplar | Rejection) -> None:
        nonlocal num_explained
        num_explained += isinstance(outcome, Exemplar)
        reporter.advance(num_explained, f"{molecule.name or molecule.smiles} decided")

    reporter.phase(f"teacher {settings.model} explains", settings.num_exemplars)
    teacher = Teacher(settings.url, settings.model, key)
    lessons = asyncio.run(teach(config, teacher, folder.teacher_answers, on_decided))
    if lessons.failure:
        raise lessons.failure
    reporter.phase(f"teacher took {lessons.spent}")
    if len(lessons.exemplars) < settings.num_exemplars:
        logger.warning(
            "the teacher explained %d of %d molecules; rejected reasons: %s",
            *(len(lessons.exemplars), settings.num_exemplars),
            describe_rejections(lessons.rejections),
        )
    return lessons.exemplars
