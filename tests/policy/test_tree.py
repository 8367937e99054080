import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.policy.tree import MAX_BYTES, read_tree


def problems(data):
    tree = read_tree(data if isinstance(data, bytes) else data.encode(), "p.yaml")
    return [(problem.line, problem.message) for problem in tree.problems]


def test_every_node_knows_its_line():
    tree = read_tree(b"a:\n  b:\n    - x\n    - y: 1\nc: [d,\n e]\n", "p.yaml")
    assert tree.value == {"a": {"b": ["x", {"y": 1}]}, "c": ["d", "e"]}
    assert tree.line(("a", "b", 1, "y")) == 4
    assert tree.line(("c", 1)) == 6
    assert tree.line(("c", 1, "deeper", "still")) == 6
    assert tree.line(("nowhere",)) == 1


def test_alias_is_read_and_its_content_is_blamed_on_the_alias():
    tree = read_tree(b"a: &hosts\n  - x\nb: *hosts\n", "p.yaml")
    assert tree.value == {"a": ["x"], "b": ["x"]}
    assert tree.line(("b", 0)) == 3


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "stands here twice, first in line 1"),
        ("x:\n  a: 1\n  'a': 3\n", 3, "first in line 2"),
        ("on: 1\n", 1, "a key is text; found the boolean 'on': put it in quotes"),
        ("443: 1\n", 1, "a key is text; found the number '443'"),
        ("~: 1\n", 1, "a key is text"),
        ("? [a]\n: 1\n", 1, "a key is text, not a list"),
        ("a: &x k\n*x : 1\n", 2, "a key is text, not a list, a mapping or an alias"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", 3, "merge keys"),
        ("a: !!python/object/apply:os.system [x]\n", 1, "the tag"),
        ("a: !!str 1\n", 1, "the tag"),
        ("!x a: 1\n", 1, "the tag"),
        ("a: 1\n---\nb: 2\n", 2, "a second document"),
        ("a: *nowhere\n", 1, "names no value"),
        ("a: &x [*x]\n", 1, "names no value that is complete"),
        ("a: [1\n", 2, "this is not YAML"),
        ("a:\n\t- 1\n", 2, "this is not YAML"),
        ("a: 2020-99-99\n", 1, "the date '2020-99-99', which is none"),
        ("a: b\x07\n", 1, "a control character"),
        ("a:\n- 0443\n", 2, "write a number in plain digits"),
        ("a: 0x1BB\n", 1, "in plain digits"),
        ("a: 0b11\n", 1, "in plain digits"),
        ("a: 4_43\n", 1, "in plain digits"),
        ("a: +443\n", 1, "in plain digits"),
        ("a: 7:23\n", 1, "in plain digits"),
        ("a: 1:30.5\n", 1, "in plain digits"),
        ("a: 1.0e+3\n", 1, "in plain digits"),
        ("a: 1\n# seen as one line\u2028b: 2\n", 2, "U+2028"),
        ("a: 1\n# seen as one line\u2029b: 2\n", 2, "U+2029"),
        ("a: 1\n# seen as one line\x85b: 2\n", 2, "U+0085"),
        ("a: 1\n# seen as one line\rb: 2\n", 2, "U+000D"),
        ("a: 1 # \u202e\n", 1, "U+202E"),
        ("a: x\u2066\n", 1, "U+2066"),
        ("a: 1\n\ufeffb: 2\n", 2, "U+FEFF"),
        ("[" * 30, 1, "nested more than 20"),
        ("{a: " * 30, 1, "nested more than 20"),
    ],
)
def test_bad_yaml_is_refused_with_its_line(text, line, message):
    found = problems(text)
    assert found[0][0] == line
    assert message in found[0][1]


def test_file_that_is_not_utf_8_is_refused_with_its_line():
    assert problems(b"a: 1\nb: \xff\n") == [(2, "the file is not UTF-8 text; save it as such")]
    assert problems("a: 1\n".encode("utf-16")) != []


def test_byte_order_mark_is_no_part_of_the_first_key():
    assert read_tree(b"\xef\xbb\xbfa: 1\n", "p.yaml").value == {"a": 1}


def test_an_odd_number_is_not_shown():
    ((_, message),) = problems("secret: {env: 0x5ec2e75ec2e7}\n")
    assert "5ec2e7" not in message


def test_plain_numbers_and_windows_line_ends_are_read():
    tree = read_tree(b"a: [0, 443, -1, 1.5, 0.25]\r\nb: '0443'\r\n", "p.yaml")
    assert tree.value == {"a": [0, 443, -1, 1.5, 0.25], "b": "0443"}
    assert tree.problems == []


def test_alias_bomb_is_refused():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    ((line, message),) = problems("\n".join(lines))
    assert line == 5
    assert "aliases written out" in message


def test_file_over_one_mebibyte_is_refused():
    assert problems(b"#" * MAX_BYTES) == []
    assert "at most" in problems(b"#" * (MAX_BYTES + 1))[0][1]


@given(st.binary(max_size=200) | st.text(alphabet="a:-[]{}&*!?#\n \t'\"1~<|>%@", max_size=60))
def test_any_bytes_give_data_or_problems_and_no_exception(data):
    read_tree(data if isinstance(data, bytes) else data.encode(), "p.yaml")
