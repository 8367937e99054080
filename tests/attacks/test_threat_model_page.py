"""docs/threat-model.md says what the tests say, and no test of an attack is left out."""

from __future__ import annotations

import ast

from tests.attacks.table import ATTACKS, TESTS, attacks_of, find_marks, make_table, read_table


def test_the_pages_table_is_the_one_that_the_tests_make() -> None:
    assert read_table() == make_table(), "the table is out of date: run make threat-model"


def test_every_attack_has_a_test_and_every_mark_an_attack() -> None:
    assert find_marks().keys() == ATTACKS.keys()


def test_every_test_of_an_attack_says_which() -> None:
    silent = [
        f"{file.name}: {node.name}"
        for file in sorted((TESTS / "attacks").glob("test_*.py"))
        if file.name != "test_threat_model_page.py"
        for node in ast.parse(file.read_text("utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        if not list(attacks_of(node))
    ]
    assert silent == [], "say with @pytest.mark.attack which row of tests/attacks/table.yaml it is"
