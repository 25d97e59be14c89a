"""Molecules in, pool and test set out: at random or by scaffold, and never a relative in both."""

import hashlib
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rdkit.Chem.Scaffolds import MurckoScaffold

from selfstudy_engine.data.errors import TableError, counted, listed
from selfstudy_engine.data.rdkit_logs import quiet_rdkit
from selfstudy_engine.data.relatives import Relatives
from selfstudy_engine.data.schema import Molecule


@dataclass(frozen=True, slots=True)
class Split:
    """Molecules to learn from, and molecules that are only ever measured on."""

    pool: list[Molecule]
    test: list[Molecule]
    relatives: list[Molecule] = field(default_factory=list)
    """In neither part: stereoisomers, salts, charged forms or tautomers of test molecules or
    exemplars."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the ids and values of pool and test set."""
        digest = hashlib.sha256()
        for molecule in (*self.pool, *self.test):
            digest.update(f"{molecule.molecule_id} {molecule.value!r}\n".encode())
        return digest.hexdigest()

    @property
    def median(self) -> float:
        """Median value of the pool: what an unanswered question counts as."""
        return statistics.median(molecule.value for molecule in self.pool)


def _rank(seed: int, skeleton: str) -> str:
    return hashlib.sha256(f"{seed}:{skeleton}".encode()).hexdigest()


def split(
    molecules: Sequence[Molecule],
    exemplars: Sequence[Molecule],
    test_size: int,
    seed: int,
    by: Literal["random", "scaffold"] = "random",
) -> Split:
    """Split so that no test molecule has a stereoisomer, a salt or a tautomer in the pool.

    random: the rank of a skeleton (InChIKey's first block) depends on the seed and itself alone:
    rows that are added to a table later don't reshuffle the rest. scaffold: the molecules of one
    Bemis-Murcko scaffold stay together, the rarest whole ones make the test set, up to its size
    (molecules without a ring are one scaffold); the seed decides among equally rare ones.

    Args:
        molecules: all molecules.
        exemplars: they and their relatives are in neither part.
        test_size: molecules in the test set, each of its own skeleton.
        seed: of the shuffle.
        by: how to choose the test set.

    Raises:
        TableError: the table is too small for that test set.
    """
    held_out = {exemplar.skeleton for exemplar in exemplars}
    themselves = {exemplar.molecule_id for exemplar in exemplars}
    taken = Relatives(exemplars)
    groups: dict[str, list[Molecule]] = defaultdict(list)
    relatives: list[Molecule] = []
    for molecule in molecules:
        if molecule.molecule_id in themselves:
            continue
        if molecule.skeleton in held_out or taken.has(molecule):
            relatives.append(molecule)
        else:
            groups[molecule.skeleton].append(molecule)
    if test_size >= len(groups):
        remedy = "lower --test-size below that" if len(groups) > 1 else "it takes two at least"
        raise TableError(
            f"test size {test_size} leaves nothing to learn from: the table has "
            f"{counted(len(groups), 'distinct molecule')} besides the exemplars; {remedy}"
        )
    ranked = sorted(groups, key=lambda skeleton: _rank(seed, skeleton))
    if by == "scaffold":
        chosen = _rarest_scaffolds(
            {skeleton: scaffold(groups[skeleton][0].smiles) for skeleton in ranked}, test_size
        )
    else:
        chosen = set(ranked[:test_size])
    test = [groups[skeleton][0] for skeleton in ranked if skeleton in chosen]
    relatives += [m for skeleton in ranked if skeleton in chosen for m in groups[skeleton][1:]]
    related = Relatives(test)
    pool: list[Molecule] = []
    for skeleton in ranked:
        if skeleton not in chosen:
            for molecule in groups[skeleton]:
                (relatives if related.has(molecule) else pool).append(molecule)
    if not pool:
        raise TableError(
            f"test size {test_size} leaves nothing to learn from: what is left are relatives of "
            "the test set; lower --test-size"
        )
    return Split(pool, test, relatives)


def _rarest_scaffolds(scaffolds: Mapping[str, str], test_size: int) -> set[str]:
    """Return skeletons of whole scaffolds, the rarest first, as many as fit into a test set.

    Args:
        scaffolds: of each skeleton, in a random order, which decides among equally rare ones.
        test_size: skeletons at most.

    Raises:
        TableError: not even the rarest scaffold fits.
    """
    members: dict[str, list[str]] = defaultdict(list)
    for skeleton, core in scaffolds.items():
        members[core].append(skeleton)
    chosen: set[str] = set()
    for same in sorted(members.values(), key=len):
        if len(chosen) + len(same) > test_size:
            break
        chosen.update(same)
    if not chosen:
        smallest = min(map(len, members.values()))
        raise TableError(
            f"no scaffold fits into a test set of {test_size}: the rarest has {smallest} "
            f"molecules; give --test-size {smallest}, or --split random"
        )
    return chosen


def scaffold(smiles: str) -> str:
    """Return the Bemis-Murcko scaffold (J. Med. Chem. 1996, 39, 2887); empty without a ring.

    >>> scaffold("CCc1ccccc1O")
    'c1ccccc1'
    """
    with quiet_rdkit():
        return str(MurckoScaffold.MurckoScaffoldSmiles(smiles))


def check_leaks(
    pool: Sequence[Molecule], test: Sequence[Molecule], exemplars: Sequence[Molecule]
) -> None:
    """Make sure that nothing that is trained on is a test molecule in another guise.

    Raises:
        TableError: a molecule is; see `find_leaks`.
    """
    leaks = find_leaks(pool, test, exemplars)
    if leaks:
        raise TableError(
            f"the test set leaks into what is trained on: {len(leaks)} molecules "
            f"({listed(leaks)}); take them out of the table or of the exemplars, or choose another "
            "--run"
        )


def find_leaks(
    pool: Sequence[Molecule], test: Sequence[Molecule], exemplars: Sequence[Molecule]
) -> list[str]:
    """Return the molecules of the pool, and exemplars, that have the skeleton of a test molecule.

    Also those that are a salt, a charged form or a tautomer of one; each with the one that it is.
    """
    skeletons = {molecule.skeleton: molecule for molecule in test}
    related = Relatives(test)
    leaks = []
    for kind, trained in (("pool", pool), ("exemplar", exemplars)):
        for molecule in trained:
            if molecule.skeleton in skeletons:
                leaks.append(f"{kind} {molecule.smiles} is {skeletons[molecule.skeleton].smiles}")
            elif other := related.has(molecule):
                leaks.append(f"{kind} {molecule.smiles} is a form of {other.smiles}")
    return leaks


def unrelated(molecules: Sequence[Molecule], to: Sequence[Molecule]) -> list[Molecule]:
    """Return the molecules that are neither the skeleton nor another form of any in `to`."""
    skeletons = {molecule.skeleton for molecule in to}
    related = Relatives(to)
    return [m for m in molecules if m.skeleton not in skeletons and not related.has(m)]
