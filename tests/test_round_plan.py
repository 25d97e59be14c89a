"""What a planner knows of the rounds before one, whatever it was asked before."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from samples import make_pool, make_sample

from selfstudy_engine.data.config import load_config
from selfstudy_engine.data.splits import Split
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.engine.round_plan import RoundPlanner

ROUNDS, BATCH = 6, 8


def test_plans_dont_depend_on_what_was_asked_before(tmp_path: Path) -> None:
    """A planner adds rounds up as they come; records of earlier ones are made beside it."""
    pool = make_pool(40)
    config = load_config(
        None,
        {
            "rounds": ROUNDS + 1,
            "generation.batch": BATCH,
            "rationalize.enabled": True,
            "rationalize.fraction": 0.25,
            "rationalize.after_rounds": 1,
        },
    )
    store = SampleStore(tmp_path)

    def planner() -> RoundPlanner:
        return RoundPlanner(config, Split(pool, pool[:1]), store)

    lasting = planner()
    for index in range(ROUNDS):
        plan = lasting.plan(index)
        assert plan == planner().plan(index)
        with store.writer(index) as writer:
            writer.add(
                make_sample(
                    m.molecule_id, round=index, accepted=int(m.value) % 3 == 0, hinted=m in shown
                )
                for shown in [plan.hinted]
                for m in (*plan.ordinary, *shown)
            )
    assert plan.hinted
    evaluated = [planner().evaluated(index) for index in range(ROUNDS + 1)]
    assert len(evaluated[1]) < len(evaluated[ROUNDS])
    assert lasting.evaluated(2) == evaluated[2]
    with ThreadPoolExecutor(4) as threads:
        rounds = [*range(ROUNDS, -1, -1)] * 5
        assert list(threads.map(lasting.evaluated, rounds)) == [evaluated[i] for i in rounds]
        begun = [planner().plan(index) for index in rounds]
        assert list(threads.map(lasting.plan, rounds)) == begun
