from pathlib import Path

from cdcflow.sink import Secret, Settings
from cdcflow.sink.settings import secret_files


class Example(Settings):
    secret: Secret


def test_a_secret_from_a_file_is_what_the_file_holds_now(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("old\n")
    settings = Example.model_validate({"secret": f"file:{file}"})
    assert settings.secret.get_secret_value() == "old"
    file.write_text("new\n")
    assert settings.secret.get_secret_value() == "new"
    assert "new" not in repr(settings)


def test_a_secret_whose_file_is_just_being_replaced_is_what_it_was(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("old")
    settings = Example.model_validate({"secret": f"file:{file}"})
    file.write_text("")
    assert settings.secret.get_secret_value() == "old"
    file.unlink()
    assert settings.secret.get_secret_value() == "old"


def test_the_files_of_secrets_are_found_wherever_they_are_in_settings(tmp_path: Path) -> None:
    class Outer(Settings):
        inner: Example
        headers: dict[str, Secret]
        several: tuple[Secret, ...]

    for name in "abc":
        (tmp_path / name).write_text(name)
    settings = Outer.model_validate(
        {
            "inner": {"secret": f"file:{tmp_path}/a"},
            "headers": {"x": f"file:{tmp_path}/b", "y": "plain"},
            "several": [f"file:{tmp_path}/c", "plain"],
        }
    )
    assert {file.name for file in secret_files(settings)} == {"a", "b", "c"}
