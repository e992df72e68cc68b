from __future__ import annotations

import textwrap

import pytest

from diffmae_video.config import ConfigError, dump, from_dict, from_yaml, get_cfg, load_config


@pytest.fixture
def write(tmp_path):
    def write_file(name: str, text: str):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    return write_file


def refused(files=(), overrides=()) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(files, overrides)
    return str(caught.value)


# --------------------------------------------------------------------------------------------- what wins over what


def test_defaults_without_files():
    cfg = load_config()
    assert cfg == get_cfg()
    assert cfg.is_frozen() and cfg.MODEL.ENCODER.is_frozen()
    with pytest.raises(AttributeError):
        cfg.SEED = 1


def test_file_over_base_over_default_and_override_over_all(write):
    write("bases/root.yaml", "SEED: 1\nDATA: {NUM_FRAMES: 8, SAMPLING_RATE: 2}\nMODEL: {NAME: MAE}\n")
    middle = write("middle.yaml", "_BASE_: bases/root.yaml\nSEED: 2\nDATA: {NUM_FRAMES: 4}\n")
    last = write("last.yaml", "DATA: {CROP_SIZE: 64}\nSEED: 3\n")
    cfg = load_config([middle])
    assert (cfg.SEED, cfg.DATA.NUM_FRAMES, cfg.DATA.SAMPLING_RATE, cfg.MODEL.NAME) == (2, 4, 2, "MAE")
    assert cfg.DATA.CROP_SIZE == get_cfg().DATA.CROP_SIZE
    cfg = load_config([middle, last])
    assert (cfg.SEED, cfg.DATA.NUM_FRAMES, cfg.DATA.CROP_SIZE) == (3, 4, 64)
    assert load_config([last, middle]).SEED == 2
    assert load_config([middle, last], ["SEED", "4", "SEED", "5"]).SEED == 5


def test_base_in_the_middle_of_a_file_is_still_merged_first(write):
    write("base.yaml", "SEED: 1")
    assert load_config([write("top.yaml", "SEED: 2\n_BASE_: base.yaml\n")]).SEED == 2


def test_several_bases_in_order(write):
    write("a.yaml", "SEED: 1\nDATA: {NUM_FRAMES: 4}")
    write("b.yaml", "SEED: 2")
    cfg = load_config([write("c.yaml", "_BASE_: [a.yaml, b.yaml]")])
    assert (cfg.SEED, cfg.DATA.NUM_FRAMES) == (2, 4)


def test_one_base_shared_by_two_files_is_no_cycle(write):
    write("root.yaml", "SEED: 7")
    write("a.yaml", "_BASE_: root.yaml")
    write("b.yaml", "_BASE_: root.yaml")
    assert load_config([write("c.yaml", "_BASE_: [a.yaml, b.yaml]")]).SEED == 7


def test_empty_file_changes_nothing(write):
    assert load_config([write("empty.yaml", "# nothing but a comment\n")]) == get_cfg()


def test_one_path_instead_of_a_list(write):
    path = write("one.yaml", "SEED: 6")
    assert load_config(path).SEED == load_config(str(path)).SEED == 6


# ------------------------------------------------------------------------------------------------------------ types


@pytest.mark.parametrize(
    "text, value",
    [("1e-3", 1e-3), ("1E+2", 100.0), (".5e1", 5.0), ("2", 2.0), ("-0.0", 0.0), ("1.5e-4", 1.5e-4)],
)
def test_floats_as_people_write_them(write, text, value):
    for cfg in (
        load_config([write("f.yaml", f"SOLVER: {{CLIP_GRAD_NORM: {text}}}")]),
        load_config((), ["SOLVER.CLIP_GRAD_NORM", text]),
    ):
        assert cfg.SOLVER.CLIP_GRAD_NORM == value
        assert type(cfg.SOLVER.CLIP_GRAD_NORM) is float


@pytest.mark.parametrize("text", ["[1, 8, 8]", "(1, 8, 8)", "[1,8,8]"])
def test_lists_in_either_bracket(write, text):
    assert load_config([write("l.yaml", f"MODEL:\n  PATCH_SIZE: {text}\n")]).MODEL.PATCH_SIZE == [1, 8, 8]
    assert load_config((), ["MODEL.PATCH_SIZE", text]).MODEL.PATCH_SIZE == [1, 8, 8]


def test_elements_are_converted_too(write):
    scale = load_config([write("s.yaml", "DATA: {CROP_SCALE: [2e-1, 1]}")]).DATA.CROP_SCALE
    assert scale == [0.2, 1.0] and all(type(value) is float for value in scale)


def test_overrides_from_python():
    overrides = ["MODEL.PATCH_SIZE", (1, 8, 8), "SEED", 3, "DATA.HORIZONTAL_FLIP", False, "SOLVER.BASE_LR", 1]
    cfg = load_config((), overrides)
    assert (cfg.MODEL.PATCH_SIZE, cfg.SEED, cfg.DATA.HORIZONTAL_FLIP) == ([1, 8, 8], 3, False)
    assert type(cfg.SOLVER.BASE_LR) is float


@pytest.mark.parametrize("value", ["2024", "true", "[run]", "a: b", "null", "(1, 2)", ""])
def test_text_for_a_string_key_is_taken_as_typed(value):
    assert load_config((), ["DATA.PATH_PREFIX", value]).DATA.PATH_PREFIX == value


@pytest.mark.parametrize(
    "key, text, parts",
    [
        ("SEED", "1.0", ["expected an integer", "float 1.0"]),
        ("SEED", "true", ["expected an integer", "boolean true"]),
        ("SEED", "1e3", ["expected an integer", "'1e3'"]),
        ("SEED", "010", ["010", "read as 8", "decimal"]),
        ("SEED", "1:30", ["1:30", "read as 90"]),
        ("SEED", "", ["expected an integer", "null"]),
        ("SEED", "[1]", ["expected an integer", "a list of 1"]),
        ("DATA.HORIZONTAL_FLIP", "1", ["expected true or false", "int 1"]),
        ("DATA.HORIZONTAL_FLIP", "maybe", ["expected true or false", "'maybe'"]),
        ("SOLVER.BASE_LR", "true", ["expected a number", "boolean true"]),
        ("SOLVER.BASE_LR", "fast", ["expected a number", "'fast'"]),
        ("SOLVER.BASE_LR", "'1e-3'", ["expected a number", "string '1e-3'"]),
        ("SOLVER.BASE_LR", ".nan", ["finite", ".nan"]),
        ("OUTPUT_DIR", "2024", ["expected a string", "int 2024", "quotes"]),
        ("OUTPUT_DIR", "no", ["expected a string", "boolean no", "quotes"]),
        ("MODEL.PATCH_SIZE", "16", ["a list of integers such as [2, 16, 16]", "int 16"]),
        ("MODEL.PATCH_SIZE", "[2, 16.5, 16]", ["a list of integers", "float 16.5"]),
        ("MODEL.PATCH_SIZE", "[2, [16], 16]", ["a list of integers", "a list of 1"]),
        ("MODEL.PATCH_SIZE", "[2, true, 16]", ["a list of integers", "boolean true"]),
        ("MODEL.PATCH_SIZE", "{a: 1}", ["a list of integers", "a section"]),
        ("SEED", "!!python/object/apply:os.getcwd []", ["expected an integer"]),
        ("SEED", "!!python/name:os.system x", ["SEED", "could not determine a constructor"]),
    ],
)
def test_wrong_type_names_file_line_and_expectation(write, key, text, parts):
    *sections, name = key.split(".")
    lines = ["# a comment"] + [f"{'  ' * i}{section}:" for i, section in enumerate(sections)]
    lines.append(f"{'  ' * len(sections)}{name}: {text}")
    path = write("wrong.yaml", "\n".join(lines) + "\n")
    message = refused([path])
    assert message.startswith(f"{path}:{len(lines)}: {key}: "), message
    for part in parts:
        assert part in message


@pytest.mark.parametrize("value", ["fast", "true", "", "[1", [1.0], None, object()])
def test_wrong_type_of_an_override(value):
    message = refused((), ["SOLVER.BASE_LR", value])
    assert message.startswith("override SOLVER.BASE_LR: expected a number, got")


# ------------------------------------------------------------------------------------------------ keys that are wrong


def test_unknown_key_names_file_line_and_nearest(write):
    path = write("typo.yaml", "SEED: 1\nMODEL:\n  ENCODER:\n    WIDHT: 192\n")
    message = refused([path])
    assert message.startswith(f"{path}:4: MODEL.ENCODER.WIDHT: no such key; did you mean MODEL.ENCODER.WIDTH")


def test_right_key_in_the_wrong_section(write):
    message = refused([write("section.yaml", "DATA:\n  EPOCHS: 8\n")])
    assert "DATA.EPOCHS: no such key; did you mean SOLVER.EPOCHS" in message


def test_unknown_section(write):
    message = refused([write("section.yaml", "MODLE: {NAME: MAE}\n")])
    assert ":1: MODLE: no such section; did you mean MODEL?" in message


def test_unknown_override_even_in_lower_case():
    message = refused((), ["model.patch_size", 1])
    assert message.startswith("override model.patch_size: no such key; did you mean MODEL.PATCH_SIZE")
    assert "override NO.SUCH.THING: no such key; all keys: " in refused((), ["NO.SUCH.THING", "1"])


def test_dotted_key_in_a_file(write):
    assert "MODEL.NAME: is declared, but not on this level" in refused([write("dots.yaml", "MODEL.NAME: MAE\n")])


def test_duplicate_key_names_both_lines(write):
    path = write("twice.yaml", "SEED: 1\nDATA:\n  NUM_FRAMES: 4\n  CROP_SIZE: 64\n  NUM_FRAMES: 8\nSEED: 1\n")
    message = refused([path])
    assert f"{path}:5: DATA.NUM_FRAMES: this key is set twice, on line 3 and on line 5" in message
    assert f"{path}:6: SEED: this key is set twice, on line 1 and on line 6" in message


def test_duplicate_section(write):
    message = refused([write("twice.yaml", "DATA: {NUM_FRAMES: 4}\nSEED: 1\nDATA: {CROP_SIZE: 64}\n")])
    assert ":3: DATA: this key is set twice, on line 1 and on line 3" in message


def test_section_and_value_mixed_up(write):
    assert ":1: MODEL: is a section" in refused([write("a.yaml", "MODEL: 3\n")])
    assert ":1: MODEL: is a section" in refused([write("b.yaml", "MODEL:\nSEED: 1\n")])
    assert "expected an integer, got a section" in refused([write("c.yaml", "SEED: {A: 1}\n")])
    assert "override MODEL: is a section" in refused((), ["MODEL", "3"])
    assert "override SEED.X: no such key" in refused((), ["SEED.X", "3"])


def test_all_wrong_keys_of_all_files_at_once(write):
    first = write("first.yaml", "SEDE: 1\nSEED: x\n")
    second = write("second.yaml", f"_BASE_: {first}\nTASKK: pretrain\n")
    message = refused([second], ["DATA.NUM_FRAME", "8"])
    assert message.startswith("4 problems")
    for part in (f"{first}:1: SEDE", f"{first}:2: SEED", f"{second}:2: TASKK", "override DATA.NUM_FRAME"):
        assert part in message


# ----------------------------------------------------------------------------------------------- files that are wrong


def test_missing_file():
    assert "nowhere/x.yaml: no such configuration file" in refused(["nowhere/x.yaml"])


def test_folder_and_binary_instead_of_a_file(tmp_path):
    assert "cannot be read as a configuration file" in refused([tmp_path])
    (tmp_path / "clip.yaml").write_bytes(b"\x00\xff\xfe\x00")
    assert "not UTF-8 text" in refused([tmp_path / "clip.yaml"])
    (tmp_path / "control.yaml").write_bytes(b"SEED: \x01")
    assert "not valid YAML" in refused([tmp_path / "control.yaml"])


def test_missing_base_names_the_line(write):
    path = write("child.yaml", "SEED: 1\n_BASE_: parent.yaml\n")
    assert f"{path}:2: _BASE_: no file {path.parent / 'parent.yaml'}" in refused([path])


def test_base_cycle_names_the_chain(write):
    write("a.yaml", "_BASE_: b.yaml")
    write("b.yaml", "_BASE_: c.yaml")
    message = refused([write("c.yaml", "_BASE_: a.yaml")])
    assert "a file cannot be its own _BASE_" in message
    assert [message.index(name) for name in ("c.yaml ->", "a.yaml ->", "b.yaml ->")] == sorted(
        message.index(name) for name in ("c.yaml ->", "a.yaml ->", "b.yaml ->")
    )
    assert "its own _BASE_" in refused([write("self.yaml", "_BASE_: self.yaml")])


def test_base_of_a_wrong_kind(write):
    assert ":1: _BASE_: expected the path" in refused([write("a.yaml", "_BASE_: 3")])
    assert ":1: _BASE_: expected the path" in refused([write("b.yaml", "_BASE_: {a: b}")])
    assert "_BASE_ works at the top of a file only" in refused([write("c.yaml", "MODEL: {_BASE_: a.yaml}")])
    assert "_BASE_ works at the top of a file only" in refused((), ["_BASE_", "a.yaml"])


@pytest.mark.parametrize(
    "text, line",
    [("SEED: 1\nDATA: [1,\n", 3), ("SEED: 1\n\tDATA: 1\n", 2), ("SEED: 1\n---\nSEED: 2\n", 2), ("SEED: *nowhere\n", 1)],
)
def test_syntax_errors_name_the_line(write, text, line):
    path = write("broken.yaml", text)
    assert refused([path]).startswith(f"{path}:{line}: not valid YAML: ")


def test_a_file_that_is_no_mapping(write):
    assert ":1: expected KEY: VALUE lines" in refused([write("list.yaml", "- SEED\n- 1\n")])
    assert ":1: a key must be a plain word" in refused([write("key.yaml", "? [a, b]\n: 1\n")])


def test_nothing_in_a_file_is_executed(write, tmp_path):
    marker = tmp_path / "executed"
    refused([write("evil.yaml", f"SEED: !!python/object/apply:os.mkdir ['{marker}']\n")])
    refused((), ["SEED", f"!!python/object/apply:os.mkdir ['{marker}']"])
    assert not marker.exists()


def test_odd_number_of_overrides():
    assert "pairs KEY VALUE" in refused((), ["SEED=1"])


# --------------------------------------------------------------------------------------------------- stored and read


def test_dump_and_read_back(write):
    overrides = ["SOLVER.BASE_LR", "1e-7", "OUTPUT_DIR", "true", "DATA.PATH_PREFIX", "  # é\n"]
    cfg = load_config((), overrides + ["MODEL.PATCH_SIZE", (1, 8, 8)])
    text = dump(cfg)
    again = from_yaml(text)
    assert again == cfg and again.is_frozen()
    assert dump(again) == text
    assert list(again) == list(get_cfg()), "sections are written in their declared order"
    assert load_config([write("dumped.yaml", text)]) == cfg, "a stored configuration can be used as a --cfg file"


def test_stored_configuration_of_another_version():
    with pytest.raises(ConfigError) as caught:
        from_yaml("SEED: 1\nMODEL: {RETIRED: 1}\n", "runs/a/latest.pt")
    assert "runs/a/latest.pt:2: MODEL.RETIRED: no such key" in str(caught.value)
    assert "written by another version of diffmae_video" in str(caught.value)


def test_stored_configuration_without_a_newer_key_has_its_default():
    assert from_yaml("SEED: 5\n") == load_config((), ["SEED", 5])


def test_from_dict():
    cfg = from_dict({"SEED": 5, "MODEL": {"PATCH_SIZE": (1, 16, 16)}, "SOLVER": {"BASE_LR": 1}})
    assert cfg == load_config((), ["SEED", 5, "MODEL.PATCH_SIZE", "[1, 16, 16]", "SOLVER.BASE_LR", 1.0])
    for wrong in ({"SEDE": 1}, {"SEED": "1"}, {"SEED": object()}):
        with pytest.raises(ConfigError):
            from_dict(wrong)
    assert from_dict(get_cfg()) == get_cfg()


def test_the_result_is_validated():
    assert "MODEL.PATCH_SIZE[1]" in refused((), ["DATA.CROP_SIZE", "100"])
